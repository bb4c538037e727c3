/* checkpoint.pml: checkpoints against concurrent writers, dying processes, and a power cut at any step.
 *
 * What is modelled, and what it stands for in mmkv/engine:
 *  - SHARDS shards of BLOCKS blocks, one key each. A block has its two epoch words (born and dead; 0 = never, alive) and
 *    its record; the words of a block and its record lie on pages of their own.
 *  - A writer puts, overwrites or deletes (put_locked, remove_at), store by store, under the shard's lock and log. It may
 *    be killed before any store: whoever takes the lock next rolls back (op_rollback).
 *  - A leader makes checkpoints (checkpoint_led) and may be killed before any step; another one follows.
 *  - The kernel writes a page back when it likes. Only the last write-back of a page counts, and only at a power cut;
 *    so it is enough to choose, whenever a page changes and when the power fails, whether what it held has reached the
 *    disk. A flush puts all pages on the disk at the moment it begins: what the kernel writes while the flush runs is a
 *    write-back like any other, so this promises less than msync does.
 *  - The power fails between any two steps, those of recovery (recover.c) included. Memory is then what the disk holds.
 *
 * What must hold, whenever recovery begins: the blocks live at C hold exactly the state at the cut of C, where C is the
 * epoch of the winning slot; and C is not below the last sync() that returned.
 *
 * A step may be one statement here and several in the engine where no other process, and no power cut, can tell the
 * difference: the log entry and its store; the lock and the reading of the epoch (it could as well have been taken later).
 *
 * Bounds and seeded bugs are set by -D; see tests/models. */
#ifndef SHARDS
#define SHARDS 2
#endif
#ifndef BLOCKS
#define BLOCKS 2
#endif
#ifndef OPERATIONS
#define OPERATIONS 3          /* begun by all writers together */
#endif
#ifndef CHECKPOINTS
#define CHECKPOINTS 2         /* begun */
#endif
#ifndef CUTS
#define CUTS 2                /* of the power */
#endif
#ifndef KILLS
#define KILLS 1               /* of writers and leaders together */
#endif
#define EPOCHS (CHECKPOINTS + 3)
#define N (SHARDS * BLOCKS)
#define NONE BLOCKS
#define P(s, b) ((s) * BLOCKS + (b))
#define AT(s, e) ((s) * EPOCHS + (e))

/* Memory, and what the disk has of it. */
byte born[N], dead[N], content[N], slot[2];               /* slot: the epoch of a checkpoint slot; 0: not valid */
byte disk_born[N], disk_dead[N], disk_content[N], disk_slot[2];

/* Volatile state. */
byte epoch = 2, durable = 1;
bool held[SHARDS], orphan[SHARDS];                        /* locked; by one who was killed */
byte current[SHARDS];                                     /* the index: the block of the key's record */
byte stores[SHARDS];                                      /* how many of the operation's stores have been logged */
byte new_block[SHARDS], old_block[SHARDS], old_born[SHARDS], old_dead[SHARDS]; /* what the log says */
#ifdef BUG_CUT_RESUMED
byte cutting;
#endif

/* What the checker knows: the state of each key (0 absent, else its record's content) at the end of each epoch, as far as
 * written; the same at the cut; and what the last sync() that returned has returned. */
byte state_at[SHARDS * EPOCHS], cut_at[SHARDS * EPOCHS], fresh[SHARDS];
byte acknowledged = 1, operations, checkpoints, cuts, kills, parked;
bool off;                                                 /* the power has failed */
hidden byte x, y;                                         /* of a d_step */

#define WORDS_REACH(p) disk_born[p] = born[p]; disk_dead[p] = dead[p]
#define WORDS_DIFFER(p) (disk_born[p] != born[p] || disk_dead[p] != dead[p])

/* A store to a page, with its log entry (`n` is the new count of them): what the page held before may have reached the
 * disk. Or the process is killed before it. */
#define STORE(differ, reach, store, n, s) \
    if \
    :: d_step { differ -> reach; stores[s] = n; store } \
    :: d_step { stores[s] = n; store } \
    :: d_step { kills < KILLS -> kills++; orphan[s] = true }; goto again \
    fi
#define STORE_BORN(s, b, v, n) STORE(WORDS_DIFFER(P(s, b)), WORDS_REACH(P(s, b)), born[P(s, b)] = v, n, s)
#define STORE_DEAD(s, b, v, n) STORE(WORDS_DIFFER(P(s, b)), WORDS_REACH(P(s, b)), dead[P(s, b)] = v, n, s)
#define STORE_CONTENT(s, b, v, n) STORE(disk_content[P(s, b)] != content[P(s, b)], disk_content[P(s, b)] = content[P(s, b)], content[P(s, b)] = v, n, s)

/* May a block be taken? Not what the index has; else what was never published, what was born and died in one epoch, and
 * what died in an epoch that is durable. */
#ifdef BUG_REUSE_EARLY
#define AT_ONCE(p) (born[p] > durable)
#else
#define AT_ONCE(p) (born[p] == dead[p])
#endif
#define REUSABLE(s, b) ((b) != current[s] && (born[P(s, b)] == 0 \
    || (dead[P(s, b)] != 0 && (dead[P(s, b)] <= durable || AT_ONCE(P(s, b))))))

#define FORGET(s) stores[s] = 0; new_block[s] = NONE; old_block[s] = NONE; old_born[s] = 0; old_dead[s] = 0

/* Roll back what a killed owner left, the last store first. */
inline settle(s) {
    if
    :: stores[s] >= 4 -> STORE_DEAD(s, old_block[s], 0, 4)
    :: else
    fi;
    if
    :: stores[s] >= 3 -> d_step { current[s] = old_block[s] }
    :: else
    fi;
#ifndef BUG_BIRTH_NOT_LOGGED
    if
    :: stores[s] >= 2 && new_block[s] != NONE -> STORE_DEAD(s, new_block[s], old_dead[s], stores[s])
    :: else
    fi;
    if
    :: stores[s] >= 1 && new_block[s] != NONE -> STORE_BORN(s, new_block[s], old_born[s], stores[s])
    :: else
    fi;
#endif
    d_step { FORGET(s) }
}

proctype writer(byte s) {
    byte e, v, b;
again:
    {
        d_step { e = 0; v = 0; b = 0 };
        do
#ifdef BUG_EPOCH_BEFORE_LOCK
        :: d_step { !off && operations < OPERATIONS -> operations++; e = epoch };
            d_step { !held[s] || orphan[s] -> held[s] = true; orphan[s] = false };
#else
        :: d_step { !off && operations < OPERATIONS && (!held[s] || orphan[s]) -> operations++; held[s] = true; orphan[s] = false; e = epoch };
#endif
            if
            :: stores[s] != 0 -> settle(s)
            :: else
            fi;
            d_step {
                old_block[s] = current[s];
                b = 0;
                do :: b < BLOCKS && !REUSABLE(s, b) -> b++ :: else -> break od
            };
            if
            :: d_step {                                   /* put, overwrite */
                   b < BLOCKS -> new_block[s] = b; old_born[s] = born[P(s, b)]; old_dead[s] = dead[P(s, b)];
                   fresh[s] = fresh[s] % 3 + 1; v = fresh[s] };
#ifdef BUG_DEAD_FIRST
                STORE_DEAD(s, b, 0, 1);
                STORE_BORN(s, b, e, 2);
                STORE_CONTENT(s, b, v, 2);
#else
                STORE_BORN(s, b, e, 1);
                STORE_CONTENT(s, b, v, 1);
                STORE_DEAD(s, b, 0, 2);
#endif
            :: d_step { old_block[s] != NONE -> v = 0 }   /* delete */
            :: d_step { b == BLOCKS && old_block[s] == NONE -> held[s] = false }; goto again /* no room */
            fi;
            d_step { stores[s] = 3; current[s] = new_block[s] };
            if
            :: old_block[s] != NONE -> STORE_DEAD(s, old_block[s], e, 4)
            :: else
            fi;
            if
            :: d_step {                                   /* commit, unlock */
                   FORGET(s);
                   held[s] = false;
                   do :: e < EPOCHS -> state_at[AT(s, e)] = v; e++ :: else -> break od;
                   e = 0; v = 0; b = 0
               }
            :: d_step { kills < KILLS -> kills++; orphan[s] = true }; goto again
            fi
        od
    } unless { off };
    d_step { parked == s -> parked++; e = 0; v = 0; b = 0 };
    goto again
}

/* The leader's next step, or its end before it. */
#define STEP(step) \
    if \
    :: d_step { step } \
    :: d_step { kills < KILLS -> kills++ }; goto again \
    fi
#define FLUSH x = 0; do :: x < N -> WORDS_REACH(x); disk_content[x] = content[x]; x++ :: else -> x = 0; break od
#define END_OF_CUT x = 0; do :: x < SHARDS -> cut_at[AT(x, e)] = state_at[AT(x, e)]; x++ :: else -> x = 0; break od

proctype leader() {
    byte e, s, which;
again:
    {
        d_step { e = 0; s = 0; which = 0 };
        do
        :: d_step { !off && checkpoints < CHECKPOINTS -> checkpoints++; e = epoch };
#ifdef BUG_CUT_RESUMED
            if :: cutting != 0 -> e = cutting; goto resumed :: else -> cutting = e fi;
#endif
            STEP(epoch = e + 1);
            do
            :: s < SHARDS ->
                if
                :: d_step { !held[s] -> s++ }
                :: d_step { orphan[s] -> orphan[s] = false; held[s] = true };
                    settle(s);
                    d_step { held[s] = false; s++ }
                :: d_step { kills < KILLS -> kills++ }; goto again
                fi
            :: else -> break
            od;
#ifdef BUG_CUT_RESUMED
resumed:
            skip;
#endif
#ifdef BUG_SLOT_BEFORE_FLUSH
            STEP(END_OF_CUT);
#else
            STEP(END_OF_CUT; FLUSH);
#endif
            d_step {
#ifdef BUG_OLDER_SLOT
                which = (slot[0] > slot[1] -> 1 : 0)
#else
                which = (slot[0] == durable -> 1 : 0)
#endif
            };
            if
            :: d_step { slot[which] != disk_slot[which] -> disk_slot[which] = slot[which]; slot[which] = 0 }
            :: d_step { slot[which] = 0 }
            :: d_step { kills < KILLS -> kills++ }; goto again
            fi;
            if
            :: d_step { disk_slot[which] = 0; slot[which] = e }
            :: d_step { slot[which] = e }
            :: d_step { kills < KILLS -> kills++ }; goto again
            fi;
            STEP(disk_slot[which] = slot[which]);
#ifdef BUG_SLOT_BEFORE_FLUSH
            STEP(FLUSH);
#endif
            STEP(durable = e; acknowledged = e);
#ifdef BUG_CUT_RESUMED
            cutting = 0;
#endif
            d_step { e = 0; s = 0; which = 0 }
        od
    } unless { off };
    d_step { parked == SHARDS -> parked++; e = 0; s = 0; which = 0 };
    goto again
}

/* The winning slot, and what is live at its epoch: that must be the state at the cut. The index is made anew. */
inline judge() {
    d_step {
        x = 0;
        do
        :: x < N -> born[x] = disk_born[x]; dead[x] = disk_dead[x]; content[x] = disk_content[x]; x++
        :: else -> break
        od;
        slot[0] = disk_slot[0]; slot[1] = disk_slot[1];
        c = (slot[1] > slot[0] -> slot[1] : slot[0]);
        assert(c != 0);
        assert(c >= acknowledged);
        x = 0;
        do
        :: x < SHARDS ->
            current[x] = NONE; held[x] = false; orphan[x] = false;
            FORGET(x);
            y = 0;
            do
            :: y < BLOCKS ->
                if
                :: born[P(x, y)] != 0 && born[P(x, y)] <= c && (dead[P(x, y)] == 0 || dead[P(x, y)] > c) ->
                    assert(current[x] == NONE);
                    assert(content[P(x, y)] == cut_at[AT(x, c)]);
                    current[x] = y
                :: else
                fi;
                y++
            :: else -> break
            od;
            assert(current[x] != NONE || cut_at[AT(x, c)] == 0);
            x++
        :: else -> break
        od;
        x = 0; y = 0
    }
}

/* A store of recovery to an epoch word. Or the power fails once more before it. */
#define RECOVER(store) \
    if \
    :: d_step { WORDS_DIFFER(i) -> WORDS_REACH(i); store } \
    :: d_step { store } \
    :: d_step { cuts < CUTS -> cuts++ }; goto dark \
    fi

proctype power() {
    byte i, c;
    do
    :: d_step { !off && cuts < CUTS -> cuts++; off = true };
        if :: cuts >= CUTS :: else -> d_step { parked == SHARDS + 1 -> parked = 0 } fi;
dark:   atomic { i = 0;
        do                                                /* what memory holds may have reached the disk, page by page */
        :: i < N ->
            if
            :: d_step { WORDS_DIFFER(i) -> WORDS_REACH(i) }
            :: true
            fi;
            if
            :: d_step { disk_content[i] != content[i] -> disk_content[i] = content[i] }
            :: true
            fi;
            i++
        :: else -> break
        od;
        if :: d_step { disk_slot[0] != slot[0] -> disk_slot[0] = slot[0] } :: true fi;
        if :: d_step { disk_slot[1] != slot[1] -> disk_slot[1] = slot[1] } :: true fi;
        judge();
        i = 0;
        if
        :: cuts >= CUTS ->                                /* the search ends here: all such states are one */
            d_step {
                do
                :: i < N ->
                    born[i] = 0; dead[i] = 0; content[i] = 0; disk_born[i] = 0; disk_dead[i] = 0; disk_content[i] = 0; i++
                :: else -> i = 0; c = 0; break
                od
            };
            goto end
        :: else
        fi };
        do                                                /* ghosts are neutralised */
        :: i < N ->
#ifndef BUG_GHOSTS_KEPT
            if
            :: born[i] > c -> RECOVER(born[i] = 0); RECOVER(dead[i] = 0)
            :: born[i] != 0 && born[i] <= c && dead[i] > c -> RECOVER(dead[i] = 0)
            :: else
            fi;
#endif
            i++
        :: else -> break
        od;
        if
        :: d_step { FLUSH }
        :: d_step { cuts < CUTS -> cuts++ }; goto dark
        fi;
        d_step {
            epoch = c + 1; durable = c;
#ifdef BUG_CUT_RESUMED
            cutting = 0;
#endif
            x = 0;
            do
            :: x < SHARDS ->
                y = 0;
                do
                :: y < EPOCHS ->
                    state_at[AT(x, y)] = cut_at[AT(x, c)];
                    if :: y != c -> cut_at[AT(x, y)] = 0 :: else fi;
                    y++
                :: else -> break
                od;
                x++
            :: else -> break
            od;
            x = 0; y = 0; i = 0; c = 0; off = false
        }
    :: break                                              /* or it holds */
    od;
end:
    false
}

init {
    d_step {
        slot[0] = 1; disk_slot[0] = 1;
        x = 0;
        do
        :: x < SHARDS -> current[x] = NONE; new_block[x] = NONE; old_block[x] = NONE; x++
        :: else -> x = 0; break
        od
    };
    atomic {
        x = 0;
        do :: x < SHARDS -> run writer(x); x++ :: else -> x = 0; break od;
        run leader();
        run power()
    }
}
