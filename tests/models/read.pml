/* read.pml: a reader against writers that replace records and use blocks again, with weak memory and dying owners.
 *
 * What is modelled, and what it stands for in mmkv/engine:
 *  - Two shards of one key each, and BLOCKS blocks that both take records from: what one gives up, once it has committed,
 *    the other may take (pages_give, pages_take), or it itself. A record is two words, so that it can be torn.
 *  - The writer of a shard (put_locked; which one it is, lock.pml sees to) may be killed before any step. The next one
 *    rolls back (op_rollback): a version that is odd becomes the next even number, after the words have been put back.
 *  - LARGE: records have extents of their own: filled before the shard is locked, published by a descriptor that keeps the
 *    version that did it (place_in_extent); one that waits in the allocator's queue has another number in that place. A
 *    reader whose version does not stand accepts a copy if the key still has the same record by the same version
 *    (still_there).
 *
 * Weak memory. A writer's stores lie in a buffer, from which they reach memory in any order but that which the code asks
 * for: what follows a release fence comes after all that precedes it, a release store after all that precedes it; giving a
 * block back and unlocking are release stores too, and take one that no later store can pass without the next lock. So
 * that is more than x86 does (stores in order), and what Arm does. A reader's loads between an acquire and the acquire
 * fence after them are made in any order, even the record's before the entry's that leads to it. Not modelled: stores that
 * reach different readers in different order (no processor of ours does that), and loads that tear a word.
 *
 * What must hold: a value that is returned is whole, the key's, was or became the key's while the reader was at it, and is
 * never taken back.
 *
 * Bounds and seeded bugs are set by -D; see tests/models. */
#ifndef WRITERS
#define WRITERS 2             /* 1: the other shard is left alone */
#endif
#ifndef BLOCKS
#define BLOCKS 3
#endif
#ifndef LARGE
#define LARGE 0
#endif
#ifndef OPERATIONS
#define OPERATIONS 3          /* begun by both writers together */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define NONE BLOCKS

/* Memory. */
byte version[2], entry[2], one[BLOCKS], two[BLOCKS], links[BLOCKS];
bool alive[BLOCKS], pool[BLOCKS];                         /* not dead nor unborn; free for all */

/* Stores that have not reached it: which, and what. */
#define ODD 1
#define ONE 2
#define TWO 4
#define LINK 8
#define ALIVE 16
#define ENTRY 32
#define DEAD 64
#define EVEN 128
byte pending[2], to_entry[2];
bool to_alive[2], to_dead[2];

/* The log: what the taker needs. It is not looked at before the writer's stores are all in memory. */
byte count[2], new_block[2], old_block[2], release[2], value[2];

/* What the checker knows: each shard's last value that has been committed; that is in memory; those taken back. */
byte committed[2], visible[2];
int undone;
byte operations, kills;

#define OUT(s, what) ((pending[s] & (what)) == 0)
#define GONE(s, what) pending[s] = pending[s] & (255 - what)

/* What a store has to wait for. */
#ifdef BUG_NO_FENCE
#define AFTER_ODD(s) true
#else
#define AFTER_ODD(s) OUT(s, ODD)
#endif
#if LARGE && !defined(BUG_FILLED_LATE)
#define AFTER_FENCE(s) AFTER_ODD(s) && OUT(s, ONE | TWO)
#else
#define AFTER_FENCE(s) AFTER_ODD(s)
#endif
#if LARGE
#define FILLING(s) true
#else
#define FILLING(s) AFTER_ODD(s)
#endif
#ifdef BUG_EVEN_RELAXED
#define AFTER_ALL(s) OUT(s, ODD)
#else
#define AFTER_ALL(s) pending[s] == EVEN
#endif

proctype buffer(byte s) {
    do
    :: d_step { !OUT(s, ODD) -> version[s]++; GONE(s, ODD) }
    :: d_step { !OUT(s, ONE) && FILLING(s) -> one[new_block[s]] = value[s]; GONE(s, ONE) }
    :: d_step { !OUT(s, TWO) && FILLING(s) -> two[new_block[s]] = value[s]; GONE(s, TWO) }
#if LARGE
    :: d_step { !OUT(s, LINK) && AFTER_FENCE(s) -> links[new_block[s]] = 64 * s + version[s]; GONE(s, LINK) }
    :: d_step { !OUT(s, ALIVE) && AFTER_FENCE(s) -> alive[new_block[s]] = to_alive[s]; GONE(s, ALIVE) }
    :: d_step { !OUT(s, DEAD) && AFTER_FENCE(s) -> alive[old_block[s]] = to_dead[s]; GONE(s, DEAD) }
#endif
    :: d_step { !OUT(s, ENTRY) && AFTER_FENCE(s) -> entry[s] = to_entry[s]; GONE(s, ENTRY) }
    :: d_step { !OUT(s, EVEN) && AFTER_ALL(s) ->
#ifdef BUG_VERSION_BACK
           version[s] = (committed[s] == value[s] -> version[s] + 1 : version[s] - 1);
#else
           version[s]++;
#endif
           visible[s] = committed[s]; GONE(s, EVEN) }
    od
}

#define STEP(it) if :: d_step { it } :: d_step { kills < KILLS -> kills++ }; goto again fi
#define STORE(what) pending[s] = pending[s] | (what)

/* op_rollback. Its stores come after a release fence too, and the even version after them. */
inline settle() {
    if
    :: version[s] & 1 || count[s] ->
        if
        :: !(version[s] & 1) -> STEP(STORE(ODD))
        :: else
        fi;
        if
        :: count[s] == 2 ->
#if LARGE
            STEP(to_dead[s] = true; STORE(DEAD));
            STEP(to_alive[s] = false; STORE(ALIVE));
#endif
            STEP(to_entry[s] = old_block[s]; STORE(ENTRY); release[s] = NONE)
        :: else
        fi;
        if
        :: count[s] -> STEP(undone = undone | (1 << value[s]); count[s] = 0)
        :: else
        fi;
        STEP(STORE(EVEN))
    :: else
    fi
}

proctype writer(byte s) {
    byte b;
again:
    true;
    do                                                    /* of one who was killed, all stores are in memory */
    :: d_step { pending[s] == 0 -> b = 0 };
        settle();
        if                                                /* pages_give: after the commit, or of what was not published */
        :: d_step { pending[s] == 0 && release[s] != NONE };
            STEP(
#if LARGE
                links[release[s]] = 64 * s + version[s] + 1;
#endif
                pool[release[s]] = true; release[s] = NONE)
        :: d_step { pending[s] == 0 && release[s] == NONE }
        fi;
        if
        :: d_step { new_block[s] != NONE && new_block[s] != entry[s] && pending[s] == 0 -> pool[new_block[s]] = true; new_block[s] = NONE }
        :: d_step { new_block[s] == NONE || new_block[s] == entry[s] }
        fi;
        d_step {                                          /* pages_take, or heap_take */
            operations < OPERATIONS && (pool[0] || pool[1] || pool[2] || pool[BLOCKS - 1]) ->
            operations++;
            do :: !pool[b] -> b++ :: else -> break od;
            pool[b] = false; new_block[s] = b; old_block[s] = entry[s]; value[s]++;
#if LARGE
            links[b] = 0; alive[b] = false;
#endif
            b = 0
        };
#if LARGE
        STEP(STORE(ONE));
        STEP(STORE(TWO));
#endif
        STEP(STORE(ODD));
        STEP(count[s] = 1);
#if LARGE
        STEP(STORE(LINK));
        STEP(to_alive[s] = true; STORE(ALIVE));
#else
        STEP(STORE(ONE));
        STEP(STORE(TWO));
#endif
        STEP(count[s] = 2; to_entry[s] = new_block[s]; STORE(ENTRY));
#if LARGE
        STEP(to_dead[s] = false; STORE(DEAD));
#endif
        STEP(release[s] = old_block[s]);
#ifdef BUG_FREED_INSIDE
        STEP(pool[release[s]] = true; release[s] = NONE);
#endif
#ifdef BUG_EVEN_FIRST
        d_step { committed[s] = value[s] };
        STEP(STORE(EVEN));
        STEP(count[s] = 0);
#else
        STEP(count[s] = 0; committed[s] = value[s]);
        STEP(STORE(EVEN));
#endif
    od
}

/* The reader's loads that are still to be made: the version at first, the rest in any order, the version again. */
#define FIRST 1
#define THE_ENTRY 2
#define THE_LINK 4
#define LIVING 8
#define WORD_ONE 16
#define WORD_TWO 32
#define AGAIN 64
#define COPY (THE_ENTRY | WORD_ONE | WORD_TWO)

#ifdef BUG_NO_ACQUIRE
#define AFTER_FIRST true
#else
#define AFTER_FIRST !(todo & FIRST)
#endif
#ifdef BUG_NO_READ_FENCE
#define AFTER_COPY !(todo & FIRST)
#else
#define AFTER_COPY todo == AGAIN
#endif
#if LARGE && !defined(BUG_LINK_LATE)
#define AFTER_LINK AFTER_FIRST && !(todo & THE_LINK)
#else
#define AFTER_LINK AFTER_FIRST
#endif
#ifdef BUG_LIFE_LATE
#define AFTER_LIFE AFTER_LINK
#else
#define AFTER_LIFE AFTER_LINK && !(todo & LIVING)
#endif
#define MADE(what) todo = todo & (127 - (what))

/* read_value. `block` is guessed: it may be loaded from before the entry is. */
proctype reader() {
    byte todo, block, before, after, low, x, y, published, now;
    bool right, living;
again:
    true;
    d_step {
        todo = FIRST | AGAIN | COPY; low = visible[0];
        block = 0; right = false; x = 0; y = 0; before = 0; after = 0; published = 0; now = 0; living = true
    };
#if LARGE
    d_step { todo = todo | THE_LINK | LIVING };
#endif
    if :: block = 0 :: block = 1 :: block = 2 fi;
    do
    :: d_step { todo & FIRST -> before = version[0]; MADE(FIRST) };
        if :: before & 1 -> goto again :: else fi
    :: d_step { todo & THE_ENTRY && AFTER_FIRST -> right = entry[0] == block; MADE(THE_ENTRY) };
        if :: !right -> goto again :: else fi
#if LARGE
    :: d_step { todo & THE_LINK && AFTER_FIRST -> published = links[block]; MADE(THE_LINK) }
    :: d_step { todo & LIVING && AFTER_LINK -> living = alive[block]; MADE(LIVING) }
#endif
    :: d_step { todo & WORD_ONE && AFTER_LIFE -> x = one[block]; MADE(WORD_ONE) }
    :: d_step { todo & WORD_TWO && AFTER_LIFE -> y = two[block]; MADE(WORD_TWO) }
    :: d_step { todo & AGAIN && AFTER_COPY -> after = version[0]; MADE(AGAIN) }
    :: d_step { todo == 0 -> todo = 0 };
        break
    od;
    if
    :: before == after -> goto accept
#if LARGE
#ifdef BUG_LINK_ALONE
    :: before != after && published != 0
#else
    :: before != after && published != 0 && living
#endif
#endif
    :: else -> goto again
    fi;
#if LARGE
    /* still_there */
    d_step { todo = FIRST | AGAIN | THE_ENTRY | THE_LINK };
    do
    :: d_step { todo & FIRST -> before = version[0]; MADE(FIRST) };
        if :: before & 1 -> goto again :: else fi
    :: d_step { todo & THE_ENTRY && !(todo & FIRST) -> right = entry[0] == block; MADE(THE_ENTRY) };
        if :: !right -> goto again :: else fi
    :: d_step { todo & THE_LINK && !(todo & FIRST) -> now = links[block]; MADE(THE_LINK) }
    :: d_step { todo == AGAIN -> after = version[0]; MADE(AGAIN) }
    :: d_step { todo == 0 -> todo = 0 };
        break
    od;
#ifdef BUG_RECORD_ALONE
    if :: before != after -> goto again :: else fi;
#else
    if :: before != after || now != published -> goto again :: else fi;
#endif
#endif
accept:
    true;
    d_step {
        assert(x == y);
        assert(x >= low && x <= visible[0]);
        assert(!(undone & (1 << x)))
    };
    goto again
}

init {
    d_step {
        one[0] = 1; two[0] = 1; value[0] = 1; committed[0] = 1; visible[0] = 1; alive[0] = true;
#if WRITERS > 1
        one[1] = 17; two[1] = 17; value[1] = 17; committed[1] = 17; visible[1] = 17; alive[1] = true; entry[1] = 1;
#else
        pool[1] = true;
#endif
        pool[2] = true; pool[BLOCKS - 1] = true;
        new_block[0] = NONE; new_block[1] = NONE; release[0] = NONE; release[1] = NONE;
#if LARGE
        links[0] = 1; links[1] = 65
#endif
    };
    atomic {
        run writer(0); run buffer(0);
#if WRITERS > 1
        run writer(1); run buffer(1);
#endif
        run reader()
    }
}
