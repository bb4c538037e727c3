/* commit.pml: transactions over two shards, against death at any step.
 *
 * What is modelled, and what it stands for in mmkv/engine:
 *  - ACTORS processes come, make transactions (commit.c), and may be killed before any step; one who was killed comes
 *    again. Afterwards a last one comes, and settles what is left.
 *  - Each transaction writes both shards: in shard 0 a large value, with an extent of its own that is filled before any
 *    lock; in shard 1 two keys whose records lie in blocks, which are free at once when their records die in the epoch in
 *    which they were born. Its log lies in an extent too (transaction.c): words for what it has reserved and what it
 *    releases, a segment for each shard, and the mark.
 *  - It may find no room when it has stored everything: then it undoes both shards, makes room, by an operation in the
 *    shard's own log, and stores everything again.
 *  - Whoever takes a lock over from the dead undoes that shard alone (transaction_undo), and may be killed in turn. The
 *    slot of the dead is settled by one who comes, when nobody holds a lock: then it gives back what the transaction had
 *    (reservation_give), and may be killed at that. Lock words and slots as such are the matter of lock.pml, the allocator's
 *    operations are one step each.
 *  - A leader makes the cut of a checkpoint (cut in checkpoint.c).
 *
 * What must hold: whenever a shard's version is even, its keys have what the last transaction wrote that has set its mark;
 * so a reader that has seen some of one sees all of it, and nothing of one that has not happened. A transaction's extent
 * is not free while a shard's log names it; no extent is free that a key leads to; none is given back twice; at the end all
 * are that should be. A cut has the same transactions in both shards.
 *
 * A step may be one statement here and several in the engine: a log entry, its count and its store, as in lock.pml.
 *
 * Bounds and seeded bugs are set by -D; see tests/models. */
#ifndef ACTORS
#define ACTORS 2
#endif
#ifndef TRANSACTIONS
#define TRANSACTIONS 2        /* begun */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef STUCK
#define STUCK 1               /* times that there is no room */
#endif
#ifndef CUTS
#define CUTS 0
#endif
#define SLOTS (ACTORS + KILLS + 1)

/* The words that are logged. */
#define ENTRY 0               /* of shard 0: an extent */
#define KEY_A 1               /* of shard 1: blocks */
#define KEY_B 2
#define FREE 3                /* of each of 4 blocks */
#define EPOCH 7               /* of each shard's last write */
#define BEFORE 9              /* the epoch of that: what each shard had */
#define RESERVED 11           /* of each of 2 transactions: 0, 1 published, else an extent + 2 */
#define RELEASED 13
#define WORDS 15
byte word[WORDS];
byte value[3], content[4];    /* of extents and blocks */

byte version[2], lock[2];     /* who has it: slot + 1 */
byte transaction[2];          /* log.transaction: which, + 1 */
bool own[2], room[2];         /* the shard's own log: an entry, of `room` */

/* A transaction's extent: the mark; and a segment for each shard. */
#define SEGMENT(t, s) (2 * (t) + (s))
#define MOST 8
#define AT(t, s, i) (MOST * SEGMENT(t, s) + (i))
bool mark[2];
byte count[4], where[4 * MOST], old[4 * MOST];

/* Process slots: state; the byte; reserved_extent: 0, or an extent (1 + t), or a transaction (3 + t). */
bool state[SLOTS], alive[SLOTS + 1], attaching;            /* the last: of the leader */
byte names[SLOTS];
bool extent_free[3], log_free[2];                         /* the allocator: extents for values, and for transactions */
byte epoch;

byte committed, begun, kills, stuck, finished, cuts, cut; /* what the checker knows */
bool roomy[2];
hidden byte x;

#define HAS(s) (value[word[ENTRY]] * (1 - (s)) + content[word[KEY_A]] * (s))

#define DIE d_step { kills < KILLS && id < ACTORS -> kills++; alive[slot] = false; slot = SLOTS; \
    if :: settling -> attaching = false :: else fi }
#define STEP(it) if :: d_step { it } :: DIE; goto again fi

/* set: the log entry and the store. */
#define SET(s, w, v) STEP(where[AT(t, s, count[SEGMENT(t, s)])] = w; old[AT(t, s, count[SEGMENT(t, s)])] = word[w]; \
    count[SEGMENT(t, s)]++; word[w] = v)

/* transaction_undo; u: which transaction. */
inline undo(s) {
    if
    :: transaction[s] == 0 ->
        if :: own[s] -> STEP(room[s] = roomy[s]); STEP(own[s] = false) :: else fi;
        if :: version[s] & 1 -> STEP(version[s]++) :: else fi
    :: else ->
        u = transaction[s] - 1;
        if
        :: !mark[u] ->
            k = count[SEGMENT(u, s)];
            do
            :: k > 0 -> STEP(k--; word[where[AT(u, s, k)]] = old[AT(u, s, k)])
            :: else -> break
            od;
            STEP(count[SEGMENT(u, s)] = 0)
        :: else
        fi;
        if :: version[s] & 1 -> STEP(version[s]++) :: else fi;
#ifndef BUG_NAME_KEPT
        STEP(transaction[s] = 0);
#endif
        u = 0
    fi
}

/* shard_lock, or shard_settle. */
inline take(s) {
    if
    :: d_step { lock[s] == 0 -> lock[s] = slot + 1 }
    :: d_step { lock[s] != 0 && !alive[lock[s] - 1] -> lock[s] = slot + 1 };
        undo(s)
    :: DIE; goto again
    fi;
    d_step { assert(!(version[s] & 1)); assert(transaction[s] == 0); assert(!own[s] && room[s] == roomy[s]) }
}

#define GIVE(w) assert(!extent_free[word[w] - 2]); extent_free[word[w] - 2] = true; word[w] = 0

/* What is free may hold anything; here, what would free the extent that shard 0 leads to. */
#define GARBAGE(t) word[RELEASED + t] = word[ENTRY] + 2

/* reservation_give. */
inline give(whose) {
    if
    :: names[whose] >= 3 ->
        u = names[whose] - 3;
        if :: word[RESERVED + u] > 1 -> STEP(GIVE(RESERVED + u)) :: else fi;
        if :: word[RELEASED + u] > 1 -> STEP(GIVE(RELEASED + u)) :: else fi;
        STEP(assert(!log_free[u]); log_free[u] = true; names[whose] = 0; GARBAGE(u));
        u = 0
    :: names[whose] == 1 || names[whose] == 2 -> STEP(assert(!log_free[names[whose] - 1]); log_free[names[whose] - 1] = true; names[whose] = 0)
    :: else
    fi
}

/* settle_dead: all their locks, then what each had reserved. */
inline settle() {
    i = 0;
    do
    :: i < SLOTS ->
        if
        :: state[i] && !alive[i] ->
            was = was | (1 << i);
            if
            :: d_step { lock[0] == i + 1 -> lock[0] = slot + 1 };
                undo(0);
                STEP(lock[0] = 0)
            :: lock[0] != i + 1
            :: DIE; goto again
            fi;
            if
            :: d_step { lock[1] == i + 1 -> lock[1] = slot + 1 };
                undo(1);
                STEP(lock[1] = 0)
            :: lock[1] != i + 1
            :: DIE; goto again
            fi
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od;
    do
    :: i < SLOTS ->
        if
#ifdef BUG_SETTLED_EARLY
        :: was & (1 << i) ->
#else
        :: was & (1 << i) && lock[0] == 0 && lock[1] == 0 ->
#endif
            give(i);
            STEP(state[i] = false)
        :: else
        fi;
        i++
    :: else -> i = 0; was = 0; break
    od
}

/* A new record in shard 1: take a free block, write. */
inline place(in) {
    d_step { in = 0; do :: !word[FREE + in] -> in++ :: else -> break od };
    SET(1, FREE + in, 0);
    STEP(content[in] = v)
}
/* Make it the key's; the old one dies. */
inline link_key(key, in) {
    d_step { p = word[key] };
    SET(1, key, in);
    SET(1, FREE + p, 1)
}

proctype actor(byte id) {
    byte slot = SLOTS, i, k, u, t, v, e, was, a, b, p;
    bool settling;
    if :: id == ACTORS -> finished == ACTORS && cuts == CUTS :: else fi;
again:
    true;
    d_step { slot = SLOTS; i = 0; k = 0; u = 0; t = 0; v = 0; e = 0; was = 0; a = 0; b = 0; p = 0; settling = false };
    if
    :: begun == TRANSACTIONS && id < ACTORS -> goto done
    :: d_step { (begun < TRANSACTIONS || id == ACTORS) && !attaching ->
                i = 0;
                do :: i < SLOTS && state[i] -> i++ :: else -> break od;
                state[i] = true; alive[i] = true; slot = i;
                attaching = true; settling = true; i = 0 }
    fi;
    settle();
    STEP(attaching = false; settling = false);

next:
    true;
    if
    :: id == ACTORS -> goto leave
    :: d_step { id < ACTORS && begun < TRANSACTIONS && (log_free[0] || log_free[1]) -> begun++ }
    :: id < ACTORS && begun == TRANSACTIONS -> goto leave
    fi;
    /* The extent, whose bytes are those of the last transaction there. */
    STEP(t = (log_free[0] -> 0 : 1); log_free[t] = false;
#ifdef BUG_HEADER_LATE
         names[slot] = 3 + t
#else
         names[slot] = 1 + t
#endif
        );
    STEP(mark[t] = false; word[RESERVED + t] = 0; word[RELEASED + t] = 0; count[2 * t] = 0; count[2 * t + 1] = 0);
    STEP(names[slot] = 3 + t);
    if
    :: d_step { extent_free[0] || extent_free[1] || extent_free[2] ->
                a = 0;
                do :: !extent_free[a] -> a++ :: else -> break od;
                extent_free[a] = false; word[RESERVED + t] = a + 2 }
    :: d_step { !extent_free[0] && !extent_free[1] && !extent_free[2] -> a = 0 };
        give(slot);
        d_step { begun--; t = 0 };
        (extent_free[0] || extent_free[1] || extent_free[2] || kills == KILLS);
        goto next
    :: DIE; goto again
    fi;
#ifdef BUG_EPOCH_FIRST
    STEP(e = epoch);
#endif
    take(0);
    take(1);
#ifndef BUG_EPOCH_FIRST
    STEP(e = epoch);
#endif
    d_step { v = committed + 1; value[word[RESERVED + t] - 2] = v };

store:
    true;
    STEP(transaction[0] = t + 1);
    STEP(version[0]++);
    if
    :: word[EPOCH] != e -> SET(0, BEFORE, HAS(0)); SET(0, EPOCH, e)
    :: else
    fi;
    d_step { a = word[RESERVED + t] - 2; p = word[ENTRY] };
    SET(0, RESERVED + t, 1);
    SET(0, ENTRY, a);
#ifdef BUG_RELEASE_UNLOGGED
    if
    :: word[RELEASED + t] == 0 -> STEP(word[RELEASED + t] = p + 2)
    :: else
    fi;
#else
    SET(0, RELEASED + t, p + 2);
#endif
#ifdef BUG_EVEN_BEFORE_MARK
    STEP(version[0]++);
#endif
    STEP(transaction[1] = t + 1);
    STEP(version[1]++);
    if
    :: word[EPOCH + 1] != e -> SET(1, BEFORE + 1, HAS(1)); SET(1, EPOCH + 1, e)
    :: else
    fi;
#ifdef BUG_KILL_FIRST
    place(a);
    link_key(KEY_A, a);
    place(b);
    link_key(KEY_B, b);
#else
    place(a);
    place(b);
    link_key(KEY_A, a);
    link_key(KEY_B, b);
#endif
    if
    :: d_step { stuck < STUCK -> stuck++ };               /* no room: undo all, make room, once more */
#ifdef BUG_ROOM_IN_BETWEEN
        undo(1);
        STEP(own[1] = true; transaction[1] = t + 1);
        STEP(room[1] = 1 - room[1]);
        STEP(own[1] = false; roomy[1] = room[1]; transaction[1] = 0);
        undo(0);
#else
        undo(0);
        undo(1);
        STEP(own[1] = true);
        STEP(room[1] = 1 - room[1]);
        STEP(own[1] = false; roomy[1] = room[1]);
#endif
        goto store
    :: true
    fi;
#ifdef BUG_MARK_PER_SHARD
    STEP(count[SEGMENT(t, 0)] = 0);
    STEP(count[SEGMENT(t, 1)] = 0; mark[t] = true; committed = v; assert(e > cut));
#else
    STEP(mark[t] = true; committed = v; assert(e > cut));
#endif
#ifndef BUG_EVEN_BEFORE_MARK
    STEP(version[0]++);
#endif
    STEP(transaction[0] = 0);
    STEP(version[1]++);
#ifdef BUG_GIVEN_BACK_FIRST
    give(slot);
#endif
    STEP(transaction[1] = 0);
    STEP(lock[1] = 0);
    STEP(lock[0] = 0);
    give(slot);
    d_step { t = 0; v = 0; e = 0; a = 0; b = 0; p = 0 };
    goto next;

leave:
    true;
    if
    :: d_step { id == ACTORS ->
           x = 0;
           do :: x < SLOTS -> assert(x == slot || !state[x]); assert(names[x] == 0); x++ :: else -> x = 0; break od;
           assert(lock[0] == 0 && lock[1] == 0);
           assert(log_free[0] && log_free[1]);
           assert(extent_free[0] + extent_free[1] + extent_free[2] == 2);
           assert(word[FREE] + word[FREE + 1] + word[FREE + 2] + word[FREE + 3] == 2) }
    :: id < ACTORS
    fi;
    d_step { alive[slot] = false; state[slot] = false };
done:
    true;
    d_step { slot = 0; finished++ }
}

#define COUNT had[i] = (word[EPOCH + i] > c -> word[BEFORE + i] : HAS(i))

/* A checkpoint of epoch c: what each shard had at its end is the same. Its leader is not killed: that is checkpoint.pml's. */
proctype leader() {
    byte c, i, k, u, slot = SLOTS, id = ACTORS, had[2];
    bool settling;
again:
    true;
    do
    :: d_step { cuts < CUTS && finished < ACTORS -> c = epoch; epoch++ };
        do
        :: i < 2 ->
            if
            :: d_step { lock[i] == 0 -> COUNT; i++ }
            :: d_step { lock[i] != 0 && !alive[lock[i] - 1] -> lock[i] = SLOTS + 1 };
                undo(i);
                d_step { lock[i] = 0; COUNT; i++ }
            fi
        :: else -> break
        od;
        i = 0;
        d_step { assert(had[0] == had[1]); cut = c; cuts++; c = 0; had[0] = 0; had[1] = 0 }
    :: finished >= ACTORS && cuts < CUTS -> cuts = CUTS
    od
}

/* What a reader sees. */
proctype reader() {
    if
    :: d_step { !(version[0] & 1) && (HAS(0) != committed || extent_free[word[ENTRY]]) -> assert(false) }
    :: d_step { !(version[1] & 1) && (content[word[KEY_A]] != committed || content[word[KEY_B]] != committed) -> assert(false) }
    :: d_step { (transaction[0] == 1 || transaction[1] == 1) && log_free[0] -> assert(false) }
    :: d_step { (transaction[0] == 2 || transaction[1] == 2) && log_free[1] -> assert(false) }
    fi
}

init {
    d_step {
        word[KEY_B] = 1; word[FREE + 2] = 1; word[FREE + 3] = 1;
        GARBAGE(0); GARBAGE(1); extent_free[1] = true; extent_free[2] = true; log_free[0] = true; log_free[1] = true;
        word[EPOCH] = 1; word[EPOCH + 1] = 1; epoch = 1; alive[SLOTS] = true
    };
    atomic {
        x = 0;
        do :: x <= ACTORS -> run actor(x); x++ :: else -> x = 0; break od;
        run leader();
        run reader()
    }
}
