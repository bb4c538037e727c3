/* images.h: what a disk may hold of one file, and images of it.
 *
 * A disk knows what the last flush of each page made durable and every change of the page since. After a power cut the
 * page holds what was durable with some number of those changes made, whatever the other pages hold. */
#ifndef CRASH_IMAGES_H
#define CRASH_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

enum { PAGE = 4096, SECTOR = 512, PAGES_MAX = 1 << 15, LENGTHS_MAX = 4096 };

struct page {
    uint8_t *log;                /* changes since what is durable, oldest first */
    uint32_t used, room;         /* bytes of it */
    uint32_t count;              /* changes in it */
    uint64_t first;              /* number of the first of them, counted from the beginning of time */
    bool touched;                /* durable bytes or changes: not just zeros */
    bool cut;                    /* the file's end has been cut off before it: some changes belong to some lengths only */
};

/* A length that the file had: made by growth, step by step from `low` on, or all at once. */
struct length { uint64_t low, high; };

struct flush { uint64_t from, pages, *marks; uint32_t state; bool whole; };

struct disk {
    uint8_t *durable;            /* bytes of every page as last flushed */
    struct page *pages;
    struct length *lengths;      /* since the beginning; lengths[states - 1] is the present one */
    uint32_t states, oldest;     /* the first of them that the disk may still have */
    uint32_t time;               /* changes so far */
    struct { const void *address; uint64_t offset, length; uint8_t before[64]; } pending; /* a store about to be made */
};

enum choice { OLDEST, NEWEST, RANDOM, ONE_OLD, ONE_NEW, MOSTLY_OLD, MOSTLY_NEW, RECENT, SPLIT, CHOICES };
extern const char *const choice_names[CHOICES];

void disk_open(struct disk *d, uint8_t *durable, uint64_t length); /* takes `durable` over: PAGES_MAX pages, mapped */
void disk_close(struct disk *d);
uint8_t *disk_memory(void);                              /* zeros for `durable` */

/* What happens to the file. */
void disk_store(struct disk *d, const void *address, uint64_t offset, uint64_t length);
void disk_settle(struct disk *d);                        /* the pending store has been made by now */
void disk_write(struct disk *d, uint64_t offset, const void *data, uint64_t length);
void disk_punch(struct disk *d, uint64_t offset, uint64_t length);
void disk_resize(struct disk *d, uint64_t from, uint64_t to);
struct flush disk_flush_begin(struct disk *d, uint64_t offset, uint64_t length, bool whole);
void disk_flush_end(struct disk *d, struct flush *f);

/* An image: fills `image` (zeros before), returns its length. */
uint64_t disk_image(const struct disk *d, enum choice choice, bool sectors, uint8_t *image);

#endif
