/* check.h: what the files of verify() share; see check.c. */
#ifndef MMKV_CHECK_H
#define MMKV_CHECK_H

#include "engine.h"

struct found { char kind[16], text[160]; uint64_t offset; void *key; size_t key_length; };

struct check {
    mmkv_store *s;
    mmkv_progress progress;
    mmkv_problem problem;
    void *context;
    uint64_t records, total;     /* of what is told to progress */
    bool writers;                /* somebody may be writing while we look */
    struct found *found;         /* of the section under way: told when its look turns out valid */
    size_t found_count, found_room;
};

/* Note a problem of the section under way; tell() passes the noted on, or forgets them. */
void note(struct check *k, const char *kind, const void *key, size_t key_length, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
void tell(struct check *k, bool valid);

/* ---- check_pages.c ---- */
int check_pages(struct check *k);

/* ---- check_state.c: but for slots with everything standing still ---- */
void check_slots(struct check *k);
void check_state(struct check *k);
void check_zone_state(struct check *k, const struct zone *zone, uint64_t free_pages);
struct tally { uint32_t pages, singles, available, waiting; }; /* of one class of one shard, as its extents have it */
void check_classes(struct check *k, uint32_t shard, const struct tally *tally);

#endif
