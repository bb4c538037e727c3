/* check_state.c: the words that steer: slots, control, logs, reservations, lists and counts of chunks, zone states.
 *
 * Slots are looked at under the checkpoint's lock, and all else with everything standing still: under all locks, or while
 * nobody is attached. */
#include "check.h"

/* ---- slots and control ---- */

/* Under the checkpoint's lock: else a leader may be writing a slot. Writers may be at work; who grows the file has made it
 * dirty before, and so the zones are looked at before the mark. */
static void look_at_slots(struct check *k)
{
    static const uint8_t none[8];
    mmkv_store *s = k->s;
    const struct fmt_control *c = control_of(s);
    int newest = slot_newest(s);
    for (int i = 0; i < 2; i++) {
        const struct fmt_slot *slot = slot_of(s, i);
        uint64_t offset = i ? FMT_SLOT_B_AT : FMT_SLOT_A_AT;
        /* without a magic: never written, or left by one who died while he wrote it */
        if (memcmp(slot->magic, none, 8) && !slot_valid(s, i)) note(k, "slot", NULL, 0, offset, "a checkpoint slot is damaged");
        if (slot->clean && (i != newest || !slot_clean(s, i)))
            note(k, "slot", NULL, 0, offset + offsetof(struct fmt_slot, clean), "the mark of a clean close is damaged");
    }
    if (newest < 0) return;
    const struct fmt_slot *slot = slot_of(s, newest);
    uint64_t end = zones_end(s);
    atomic_thread_fence(memory_order_acquire); /* who adds a zone has made the file longer before (pairs with `begin` in grow) */
    uint64_t durable = load(&c->durable), epoch = load(&c->epoch);
    uint32_t clean = load32(&c->clean);
    if (durable > slot->epoch || epoch <= slot->epoch) note(k, "control", NULL, 0, FMT_CONTROL_AT, "the epochs contradict the checkpoint");
    if (load(&c->file_length) < end) note(k, "control", NULL, 0, FMT_CONTROL_AT, "the length of the file is less than that of its zones");
    if (load32(&c->failed) && slot_clean(s, newest))
        note(k, "control", NULL, 0, FMT_CONTROL_AT, "a flush that failed is remembered in a clean file");
    /* One who was killed while he took the mark back has written nothing yet. */
    if (clean > 1 || (clean && !slot_clean(s, newest) && checkpoint_wanted(s)))
        note(k, "control", NULL, 0, FMT_CONTROL_AT, "the store takes its file for clean, which does not say so");
    if (slot_clean(s, newest) && (durable != slot->epoch || epoch != slot->epoch + 1 || slot->file_length != end))
        note(k, "control", NULL, 0, FMT_CONTROL_AT, "a clean file contradicts its checkpoint");
}

/* Before any lock that comes after the checkpoint's, since a slot's checksum is a hash, which may call back. */
void check_slots(struct check *k)
{
    uint32_t *lock = &control_of(k->s)->checkpoint_lock, dead;
    if (!k->s->writable) {
        look_at_slots(k);
    } else if (!lock_word(k->s, lock, MMKV_NO_WAIT, &dead)) { /* a checkpoint under way is not waited for */
        look_at_slots(k);
        unlock_word(k->s, lock);
    }
}

/* A word that names an extent: its page is a page, and of a heap extent it holds no more than the offset. */
static void check_word(struct check *k, const uint64_t *word, uint64_t least)
{
    uint64_t value = load(word), pages = value & (FMT_PAGE - 1);
    if (value <= least) return;
    if (value < k->s->zones_start || (pages && extent_at(k->s, value - pages)))
        note(k, "pages", NULL, 0, offset_of(k->s, word), "a word that should name an extent names none");
}

/* A word of a process slot: an extent for a value, or a transaction that names others. */
static void check_reserved(struct check *k, const uint64_t *word)
{
    uint64_t value = load_acquire(word);
    if (!(value & FMT_RESERVED_TRANSACTION)) {
        check_word(k, word, 1);
        return;
    }
    struct fmt_transaction *t = transaction_at(k->s, value - FMT_RESERVED_TRANSACTION);
    if (!t) note(k, "pages", NULL, 0, offset_of(k->s, word), "a word that should name a transaction names none");
    for (uint32_t i = 0; t && i < t->words; i++) check_word(k, &transaction_words(t)[i], 1);
}

static void check_processes(struct check *k)
{
    for (uint32_t i = 0; i < FMT_PROCESSES; i++) {
        const struct fmt_process *p = process_of(k->s, i);
        uint64_t at_ = FMT_PROCESSES_AT + i * sizeof *p;
        uint32_t state = load32(&p->state);
        if (state > 1) note(k, "process", NULL, 0, at_, "a process slot is in no known state");
        for (int j = 0; j < 4; j++) {
            /* Who comes meanwhile may have it, and use it. */
            if (!state && load_acquire(&p->reserved_extent[j]) && !load32(&p->state))
                note(k, "process", NULL, 0, at_, "a free process slot has reserved an extent");
            check_reserved(k, &p->reserved_extent[j]);
        }
    }
}

static void check_lockable(struct check *k, const struct fmt_lockable *l, const struct fmt_log *log)
{
    if (l->version & 1 || log->count)
        note(k, "operation", NULL, 0, offset_of(k->s, l), "an operation was left half-done: version %llu, %llu words in the log",
             (unsigned long long)l->version, (unsigned long long)log->count);
}

void check_state(struct check *k)
{
    mmkv_store *s = k->s;
    const struct fmt_allocator *p = allocator_of(s);
    check_processes(k);
    check_lockable(k, &p->l, &p->log);
    check_word(k, &p->harvesting, 0);
    if (!p->waiting_head != !p->waiting_tail) note(k, "pages", NULL, 0, FMT_ALLOCATOR_AT, "the queue of dead extents has only one end");
    for (uint32_t i = 0; i < s->shard_count; i++) {
        struct fmt_shard *sh = shard_of(s, i);
        check_lockable(k, &sh->l, &sh->log);
        if (sh->log.transaction) note(k, "operation", NULL, 0, shard_at(i), "a transaction was left half-done");
        if (sh->epoch > load(&control_of(s)->epoch)) note(k, "counter", NULL, 0, shard_at(i), "the shard was written in an epoch to come");
        if (sh->failed) note(k, "shard", NULL, 0, shard_at(i), "the shard is marked failed: %s", strerror((int)sh->failed));
        for (uint32_t j = 0; j < FMT_SHARD_RESERVES; j++) check_word(k, &sh->reserve[j], 0);
        for (uint32_t j = 0; j < FMT_SHARD_RELEASES; j++) check_word(k, &sh->release[j], 0);
    }
}

/* ---- zones ---- */

void check_zone_state(struct check *k, const struct zone *zone, uint64_t free_pages)
{
    const struct fmt_zone_state *state = zone_state_of(k->s, zone->number);
    uint64_t longest = 0, first = next_bit(zone->free, 0, zone->pages, true), whole = bitmap_words(zone->pages) * 64;
    for (uint64_t i = first; i < zone->pages;) {
        uint64_t end = next_bit(zone->free, i, zone->pages, false);
        if (end - i > longest) longest = end - i;
        i = next_bit(zone->free, end, zone->pages, true);
    }
    if (free_pages != state->free) note(k, "counter", NULL, 0, zone->offset, "a zone's count of free pages is wrong");
    if (longest > state->run_max) note(k, "counter", NULL, 0, zone->offset, "a zone has a longer free run than it knows of");
    if (first < zone->pages && first < state->hint) note(k, "counter", NULL, 0, zone->offset, "a page is free below where the search begins");
    if (first < zone->first || next_bit(zone->free, zone->pages, whole, true) < whole)
        note(k, "pages", NULL, 0, zone->offset, "a page that no extent may have is marked free");
    for (uint64_t i = zone->first; i < zone->pages; i++)
        if (bit_get(zone->holes, i) && !bit_get(zone->free, i))
            note(k, "pages", NULL, 0, zone->offset + i * FMT_PAGE, "a page in use is marked as a hole");
}

/* ---- lists of chunks ---- */

static void check_list(struct check *k, uint32_t shard, uint32_t class_, uint64_t head, uint32_t list, uint32_t expected)
{
    uint64_t last = 0, offset = head;
    uint32_t found = 0;
    for (; offset && found <= expected; found++) {
        const struct fmt_chunk *c = chunk_at(k->s, offset, shard);
        if (!c || c->class_ != class_ || c->list != list || (offset != head && c->prev != last)) {
            note(k, "list", NULL, 0, offset, "a list of chunks of shard %u leads to a chunk that is not of it", shard);
            return;
        }
        last = offset;
        offset = c->next;
    }
    if (found != expected || (head && chunk_at(k->s, head, shard)->prev != last))
        note(k, "list", NULL, 0, shard_at(shard), "a list of chunks is not whole: %u of class %u are in it, %u say so", found, class_, expected);
}

void check_classes(struct check *k, uint32_t shard, const struct tally *tally)
{
    const struct fmt_shard *sh = shard_of(k->s, shard);
    for (uint32_t i = 0; i < FMT_CLASSES; i++) {
        const struct fmt_class *c = &sh->class_[i];
        if (c->pages != tally[i].pages || c->singles != tally[i].singles)
            note(k, "counter", NULL, 0, shard_at(shard), "class %u counts %u pages and %u records alone, and has %u and %u", i, c->pages,
                 c->singles, tally[i].pages, tally[i].singles);
        check_list(k, shard, i, c->available, FMT_LIST_AVAILABLE, tally[i].available);
        check_list(k, shard, i, c->waiting, FMT_LIST_WAITING, tally[i].waiting);
    }
}
