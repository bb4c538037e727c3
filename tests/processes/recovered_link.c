/* recovered_link.c: a large value whose link is 0 after a recovery: see test_large_values.py. */
#include <stdio.h>

#include "between.h"

enum { ZONE = 16 << 20, MOST = 64 };

static mmkv_store *store_;

/* A value that, with its key of eight bytes, takes so many pages. */
static void put_pages(uint64_t key, uint64_t pages)
{
    static uint8_t bytes[ZONE];
    must(mmkv_put(KEY(store_, key), bytes, pages * FMT_PAGE - FMT_RECORD_HEADER - sizeof key, 0));
}

/* Where in a zone, and of how many pages, would a value's extent have a check of 0? */
static bool spot(const struct zone *zone, uint64_t *page, uint64_t *pages)
{
    for (*page = zone->first + 16; *page < zone->pages - MOST; ++*page)
        for (*pages = 9; *pages < MOST; ++*pages) {
            struct fmt_extent words = { .pages = (uint32_t)*pages, .type = FMT_EXTENT_VALUE };
            if (!fmt_extent_check(*WORD(words.pages), offset_of(store_, &zone->extents[*page]))) return true;
        }
    return false;
}

static void use(void)
{
    uint64_t epoch = 0, page, pages, large = 1, there = 3, other = 4;
    struct zone zone;
    struct place p;
    put_pages(large, ZONE / FMT_PAGE - 16);
    for (uint64_t i = 0; i < allocator_of(store_)->zone_count; i++) {
        must(zone_get(store_, i, &zone));
        if (zone.extents && zone.pages > ZONE / FMT_PAGE - 16) break;
    }
    must(mmkv_delete(KEY(store_, large), NULL, 0, NULL, 0));
    for (int i = 0; i < 2; i++) must(mmkv_sync(store_, 1, (epoch = 0, &epoch)));
    if (!wrong && !spot(&zone, &page, &pages)) wrong = "no such place";
    if (wrong) return;
    put_pages(2, page - zone.first);
    put_pages(there, pages);
    struct fmt_extent *e = &zone.extents[page];
    uint64_t h = mmkv_hash(store_, &there, sizeof there), link;
    must(index_find(store_, shard_of(store_, 0), h, &there, sizeof there, &p));
    if (!wrong && (extent_at(store_, p.record) != e || e->link >> 48)) wrong = "the value is elsewhere";
    e->link &= ~FMT_LINK_MASK; /* as a recovery leaves it */
    link = published(store_, &p);
    must(mmkv_put(KEY(store_, other), "v", 1, 0));
    if (!wrong && !still_there(store_, shard_of(store_, 0), h, &there, sizeof there, &p, link))
        wrong = "a copy is not accepted because another key was written";
    put_pages(there, pages); /* it dies, and another one is there */
    if (!wrong && still_there(store_, shard_of(store_, 0), h, &there, sizeof there, &p, link)) wrong = "another value is taken for it";
}

/* recovered_link FILE: prints what is wrong, and is 1. */
int main(int argc, char **argv)
{
    mmkv_options options = { .mode = MMKV_MODE_NEW, .shards = 1, .permissions = 0600 };
    if (argc != 2) return 2;
    mmkv_set_hash(hash, 0);
    rig_seed(1);
    must(mmkv_open(argv[1], &options, &store_));
    if (!wrong) use();
    if (wrong) puts(wrong);
    return wrong != NULL;
}
