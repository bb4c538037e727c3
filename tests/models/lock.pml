/* lock.pml: the lock word, its waiters, owners that die, taking over, process slots and their settlement.
 *
 * What is modelled, and what it stands for in mmkv/engine:
 *  - ACTORS processes come (attach), take locks, store two words each time through the undo log, and may be killed before
 *    any step; one who was killed comes again, as another process. Afterwards a last one comes and uses every lock.
 *  - The lock word (lock_word, unlock_word): owner slot, incarnation, waiters bit. FUTEX_WAIT compares and sleeps in one
 *    step, FUTEX_WAKE wakes any one sleeper. A nap may end at any time (NAPS 2), only when nobody can do anything
 *    else (1), which shows that what is needed for everybody to finish is not left to chance, or never (0).
 *  - A slot's byte is locked as long as its owner lives (slot_alive); so is the attach lock, whose holder settles under
 *    the name SETTLER if no slot is free.
 *  - Settlement (settle_dead): first the locks that name the dead, then, unless somebody holds a lock, its reservation.
 *    An operation publishes the extent that its slot had reserved: a rollback brings the reservation back.
 *
 * What must hold: one at most has a lock; only the holder of a lock rolls back, and never what a live owner does; who has
 * a lock finds the words as the last commit left them; no extent is lost or given back twice; nobody sleeps for ever, and,
 * as long as nobody dies or gives up, nobody even needs the end of a nap; the last one gets every lock.
 *
 * A step may be one statement here and several in the engine where no other process can tell the difference: a log
 * entry, the count and its store are one, because a word that has its old value can be restored.
 *
 * Bounds and seeded bugs are set by -D; see tests/models. */
#ifndef ACTORS
#define ACTORS 2
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef LOCKS
#define LOCKS 1
#endif
#ifndef OPERATIONS
#define OPERATIONS 2          /* begun by all actors but the last, together */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 0            /* waits that end with LockTimeoutError */
#endif
#ifndef STRANGERS
#define STRANGERS 0           /* 1: somebody else may set the waiters bit at once */
#endif
#ifndef NAPS
#define NAPS 2
#endif
#define INCARNATIONS 4
#define SETTLER SLOTS
#define NAME(slot, inc) (1 + (slot) * INCARNATIONS + (inc))
#define SLOT_OF(name) (((name) - 1) / INCARNATIONS)

/* Shared memory. */
byte owner[LOCKS];                                        /* the lock word: 0 free, else a NAME ... */
bool waiters[LOCKS];                                      /* ... and the waiters bit */
byte count[LOCKS], log_slot[LOCKS], word[LOCKS];          /* the undo log: entries, whose reservation; a word of the shard */
bool state[SLOTS], reserved[SLOTS];
byte incarnation[SLOTS], settlers;                        /* a settler's name has the time in it, which differs */

/* The kernel's. */
bool held[SLOTS + 1];                                     /* the slot's byte; the last: the attach lock */
bool asleep[ACTORS + 1];
byte on[ACTORS + 1];                                      /* the lock on whose word */

/* What the checker knows. */
byte in[LOCKS], committed[LOCKS];                         /* 1 + the live actor that has a lock; its word at the last commit */
byte extents;                                             /* neither free nor published */
byte operations, kills, given_up, finished;
hidden byte x;

#define ALIVE(slot) held[slot]
#define DIE d_step { kills < KILLS && id < ACTORS -> kills++; \
    x = 0; do :: x < LOCKS -> if :: in[x] == id + 1 -> in[x] = 0 :: else fi; x++ :: else -> break od; \
    if :: slot < SLOTS -> held[slot] = false :: else fi; \
    if :: attaching -> held[SETTLER] = false :: else fi; x = 0; attaching = false; slot = SLOTS }
#define STEP(it) if :: d_step { it } :: DIE; goto again fi

#define DIE_ASLEEP kills < KILLS && id < ACTORS && asleep[id] -> kills++; asleep[id] = false; \
    x = 0; do :: x < LOCKS -> if :: in[x] == id + 1 -> in[x] = 0 :: else fi; x++ :: else -> break od; held[slot] = false; x = 0; slot = SLOTS

#define HAS(l) assert(in[l] == 0); in[l] = id + 1

inline wake(l) {
    if
    :: d_step { asleep[0] && on[0] == l -> asleep[0] = false }
    :: d_step { asleep[1] && on[1] == l -> asleep[1] = false }
#if ACTORS > 2
    :: d_step { asleep[2] && on[2] == l -> asleep[2] = false }
#endif
    :: d_step { asleep[ACTORS] && on[ACTORS] == l -> asleep[ACTORS] = false }
    :: else
    fi
}

/* unlock_word: an exchange, then the wake. */
inline unlock(l) {
#ifdef BUG_BIT_READ_FIRST
    STEP(flag = waiters[l]);
    STEP(assert(in[l] == id + 1); in[l] = 0; owner[l] = 0; waiters[l] = false);
#else
    STEP(flag = waiters[l]; assert(in[l] == id + 1); in[l] = 0; owner[l] = 0; waiters[l] = false);
#endif
    if
    :: flag -> if :: wake(l) :: DIE; goto again fi; flag = false
    :: else
    fi
}

/* op_rollback: the last entry first; only the end says that the log is empty. */
inline roll_back(l) {
#ifdef BUG_COUNT_FIRST
    STEP(flag = count[l] == 2; n = count[l]; count[l] = 0);
    if :: n == 2 -> STEP(word[l] = word[l] - 1) :: else fi;
    if :: n >= 1 -> STEP(reserved[log_slot[l]] = true) :: else fi;
    d_step { n = 0; flag = false }
#else
    if :: count[l] == 2 -> STEP(assert(in[l] == id + 1); word[l] = committed[l]) :: else fi;
    if :: count[l] >= 1 -> STEP(assert(in[l] == id + 1); reserved[log_slot[l]] = true) :: else fi;
    if :: count[l] != 0 -> STEP(count[l] = 0) :: else fi
#endif
}

/* Every lock that names a slot's dead owner, without waiting for any (shard_settle). */
inline settle_locks(dead) {
    k = 0;
    do
    :: k < LOCKS ->
        d_step { seen = owner[k]; flag = waiters[k] };
        if
        :: seen != 0 && SLOT_OF(seen) == dead ->
            if
            :: d_step { owner[k] == seen && waiters[k] == flag -> owner[k] = me; waiters[k] = true; HAS(k) };
                roll_back(k);
                unlock(k)
            :: owner[k] != seen || waiters[k] != flag     /* somebody waiting was quicker */
            :: DIE; goto again
            fi
        :: else
        fi;
        d_step { seen = 0; flag = false; k++ }
    :: else -> break
    od;
    k = 0
}

/* settle_dead: the locks of all, then the reservations; `was`: which slots' owners are dead. */
inline settle_dead() {
    settle_locks(SETTLER);
    i = 0;
    do
    :: i < SLOTS ->
        if
        :: i != slot && state[i] && !ALIVE(i) ->
            was = was | (1 << i);
            settle_locks(i)
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od;
    do
    :: i < SLOTS ->
        if
        :: was & (1 << i) ->
#ifdef BUG_SLOT_BEFORE_LOCKS
            k = LOCKS;
#endif
            do                                            /* whoever took one over has to roll back first */
            :: k < LOCKS && owner[k] == 0 -> k++
            :: else -> break
            od;
            if
            :: k == LOCKS ->
                if :: reserved[i] -> STEP(reserved[i] = false; assert(extents > 0); extents--) :: else fi;
                STEP(state[i] = false)
            :: else                                       /* left to a later attach */
            fi;
            k = 0
        :: else
        fi;
        i++
    :: else -> i = 0; was = 0; break
    od
}

/* lock_word. flag: the waiters bit of the word that was seen. `took`: from the dead. */
inline lock(l) {
    if
    :: d_step { owner[l] == 0 -> owner[l] = me; waiters[l] = false; HAS(l) }; goto locked
#if STRANGERS
    :: d_step { owner[l] == 0 -> owner[l] = me; waiters[l] = true; HAS(l) }; goto locked
#endif
    :: d_step { owner[l] != 0 }
    :: DIE; goto again
    fi;
look:
    true;
    d_step { seen = owner[l]; flag = waiters[l] };
    if
    :: seen == 0 ->
        if
#ifdef BUG_BIT_NOT_KEPT
        :: d_step { owner[l] == 0 -> owner[l] = me; waiters[l] = false; HAS(l); flag = false }; goto locked
#else
        :: d_step { owner[l] == 0 -> owner[l] = me; waiters[l] = true; HAS(l); flag = false }; goto locked
#endif
        :: d_step { owner[l] != 0 -> flag = false }; goto look
        :: DIE; goto again
        fi
    :: else
    fi;
    if
    :: !flag ->
        if
        :: d_step { owner[l] == seen && !waiters[l] -> waiters[l] = true; flag = true }
        :: owner[l] != seen || waiters[l] -> goto look
        :: DIE; goto again
        fi
    :: else
    fi;
    if
#ifdef BUG_SLEEP_UNCOMPARED
    :: d_step { asleep[id] = true; on[id] = l }
#else
    :: d_step { owner[l] == seen && waiters[l] -> asleep[id] = true; on[id] = l }
    :: owner[l] != seen || !waiters[l] -> goto look
#endif
    :: DIE; goto again
    fi;
    if
    :: !asleep[id] ->                                     /* woken */
        if
        :: true
        :: d_step { given_up < GIVE_UPS && id < ACTORS -> given_up++; seen = 0; flag = false; n = 0; reserved[slot] = false; extents-- }; goto idle
        :: DIE; goto again
        fi;
        goto look
#if NAPS
#if NAPS == 1
    :: timeout ->
        d_step {
            asleep[id] = false;
            if                                            /* else it sleeps on for ever, whoever has the lock being asleep too */
            :: owner[l] == 0 -> assert(kills + given_up > 0)
            :: else -> assert(!ALIVE(SLOT_OF(owner[l])) || LOCKS > 1)
            fi
        };
#else
    :: d_step { asleep[id] -> asleep[id] = false };
#endif
        if
        :: owner[l] != seen || !waiters[l] -> goto look
        :: else
        fi;
#ifdef BUG_LIFE_NOT_ASKED
        if
        :: true
        :: DIE; goto again
        fi;
#else
        if
        :: ALIVE(SLOT_OF(seen)) -> goto look
        :: !ALIVE(SLOT_OF(seen))
        :: DIE; goto again
        fi;
#endif
        if
#ifdef BUG_TAKEN_BY_STORE
        :: d_step { owner[l] = me; waiters[l] = true; HAS(l) }
#else
        :: d_step { owner[l] == seen && waiters[l] -> owner[l] = me; waiters[l] = true; HAS(l) }
        :: owner[l] != seen || !waiters[l] -> goto look
#endif
        :: DIE; goto again
        fi;
        d_step { took = SLOT_OF(seen); seen = 0; flag = false };
        roll_back(l);
        goto locked
#endif
    :: d_step { DIE_ASLEEP } ; goto again
    fi;
locked:
    true;
    d_step { seen = 0; flag = false }
}
proctype actor(byte id) {
    byte slot = SLOTS, me, seen, i, k, n, was, took = SLOTS + 1;
    bool flag, attaching;
    if :: id == ACTORS -> finished == ACTORS :: else fi;
again:
    true;
    d_step { me = 0; seen = 0; i = 0; k = 0; n = 0; was = 0; took = SLOTS + 1; flag = false; attaching = false; slot = SLOTS };
    if
    :: operations == OPERATIONS && id < ACTORS -> goto done
    :: d_step { (operations < OPERATIONS || id == ACTORS) && !held[SETTLER] -> held[SETTLER] = true; attaching = true }
    fi;
find:
    i = 0;
    do
    :: i < SLOTS && (state[i] || ALIVE(i)) -> i++
    :: else -> break
    od;
    if
    :: i == SLOTS ->                                      /* some may be of the dead */
#ifdef BUG_SETTLERS_ALIKE
        d_step { i = 0; me = NAME(SETTLER, 0) };
#else
        d_step { i = 0; settlers = (settlers + 1) % INCARNATIONS; me = NAME(SETTLER, settlers) };
#endif
        settle_dead();
        goto find
    :: i < SLOTS ->
        STEP(assert(!state[i] && !held[i]); held[i] = true; slot = i; i = 0; n = 0);
    fi;
#ifdef BUG_NO_INCARNATION
    STEP(me = NAME(slot, 0));
#else
    STEP(incarnation[slot] = (incarnation[slot] + 1) % INCARNATIONS; me = NAME(slot, incarnation[slot]));
#endif
    STEP(state[slot] = true);
    settle_dead();
    STEP(held[SETTLER] = false; attaching = false);

    i = 0;
idle:
    true;
    do
    :: d_step { id < ACTORS && operations < OPERATIONS -> operations++ };
#if LOCKS > 1
        if :: n = 0 :: n = 1 fi;
#endif
        goto work
    :: id < ACTORS && operations == OPERATIONS -> goto leave
    :: id == ACTORS && n < LOCKS -> goto work
    :: id == ACTORS && n == LOCKS -> goto leave
    od;
work:
    true;
    STEP(assert(!reserved[slot]); reserved[slot] = true; extents++);
    lock(n);
    if
    :: took <= SLOTS -> d_step { i = took; took = SLOTS + 1 }; settle_locks(i); i = 0
    :: else
    fi;
    d_step { assert(count[n] == 0); assert(word[n] == committed[n]) };
    STEP(log_slot[n] = slot; count[n] = 1; reserved[slot] = false);
    STEP(count[n] = 2; word[n] = 1 - word[n]);
    STEP(count[n] = 0; committed[n] = word[n]; extents--);
    unlock(n);
    if
    :: id == ACTORS -> n++
    :: else -> n = 0
    fi;
    goto idle;
leave:
    true;
    d_step { !held[SETTLER] -> held[slot] = false; assert(!reserved[slot]); state[slot] = false };
done:
    true;
    d_step { slot = 0; me = 0; finished++ };
    if
    :: d_step { id == ACTORS ->                           /* every slot is settled, every lock is free */
           x = 0;
           do :: x < LOCKS -> assert(owner[x] == 0 && count[x] == 0); x++ :: else -> x = 0; break od;
           do :: x < SLOTS -> assert(!state[x] && !reserved[x]); x++ :: else -> x = 0; break od;
           assert(extents == 0) }
    :: else
    fi
}

/* Nobody can go on, nor will the end of a nap help: all must have finished. */
proctype watch() {
#if NAPS == 1
    timeout && !asleep[0] && !asleep[1] && !asleep[ACTORS - 1] && !asleep[ACTORS] -> assert(finished == ACTORS + 1)
#else
    timeout -> assert(finished == ACTORS + 1)
#endif
}

init {
    atomic {
        x = 0;
        do :: x <= ACTORS -> run actor(x); x++ :: else -> x = 0; break od;
        run watch()
    }
}
