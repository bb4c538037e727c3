/* layout.c: the layout as compiled, told by name, so that a test can hold it against docs/format.md.
 *
 * format.h asserts its own numbers; this table is what lets the document be wrong and be caught. It lists every field,
 * reserved ones too: with no gap between fields an offset that moves, or a size that changes, always shows. */
#include "format.h"
#include "mmkv.h"

#include <stdio.h>

struct entry {
    const char *name;
    uint64_t value;
};

#define SIZE(type) { #type, sizeof(struct type) }
#define FIELD(type, field) { #type "." #field, offsetof(struct type, field) }

/* In the order of docs/format.md, which is the order of addresses. */
static const struct entry entries[] = {
    SIZE(fmt_superblock),
    FIELD(fmt_superblock, magic),
    FIELD(fmt_superblock, version),
    FIELD(fmt_superblock, page_size),
    FIELD(fmt_superblock, compat),
    FIELD(fmt_superblock, ro_compat),
    FIELD(fmt_superblock, incompat),
    FIELD(fmt_superblock, uuid),
    FIELD(fmt_superblock, hash_seed),
    FIELD(fmt_superblock, shard_count),
    FIELD(fmt_superblock, process_count),
    FIELD(fmt_superblock, created_ns),
    FIELD(fmt_superblock, zones_start),
    FIELD(fmt_superblock, reserved),
    FIELD(fmt_superblock, checksum),

    SIZE(fmt_slot),
    FIELD(fmt_slot, magic),
    FIELD(fmt_slot, epoch),
    FIELD(fmt_slot, file_length),
    FIELD(fmt_slot, record_count),
    FIELD(fmt_slot, record_sum),
    FIELD(fmt_slot, flags),
    FIELD(fmt_slot, time_ns),
    FIELD(fmt_slot, user_length),
    FIELD(fmt_slot, user_checksum),
    FIELD(fmt_slot, reserved),
    FIELD(fmt_slot, checksum),
    FIELD(fmt_slot, clean),

    SIZE(fmt_control),
    FIELD(fmt_control, boot_id),
    FIELD(fmt_control, device),
    FIELD(fmt_control, inode),
    FIELD(fmt_control, birth_ns),
    FIELD(fmt_control, generation),
    FIELD(fmt_control, mounting),
    FIELD(fmt_control, identity_reserved),
    FIELD(fmt_control, epoch),
    FIELD(fmt_control, durable),
    FIELD(fmt_control, file_length),
    FIELD(fmt_control, clean),
    FIELD(fmt_control, failed),
    FIELD(fmt_control, line1_reserved),
    FIELD(fmt_control, checkpoint_lock),
    FIELD(fmt_control, checkpoint_futex),
    FIELD(fmt_control, attach_count),
    FIELD(fmt_control, checkpoint_count),
    FIELD(fmt_control, flushed_zones),
    FIELD(fmt_control, written),
    FIELD(fmt_control, flush_ns),
    FIELD(fmt_control, arrived),
    FIELD(fmt_control, expected),
    FIELD(fmt_control, line2_reserved),
    FIELD(fmt_control, reserved),

    SIZE(fmt_process),
    FIELD(fmt_process, state),
    FIELD(fmt_process, incarnation),
    FIELD(fmt_process, pid),
    FIELD(fmt_process, start_ns),
    FIELD(fmt_process, reserved_extent),
    FIELD(fmt_process, reserved),

    SIZE(fmt_lockable),
    FIELD(fmt_lockable, lock),
    FIELD(fmt_lockable, waiting),
    FIELD(fmt_lockable, version),

    SIZE(fmt_log_entry),
    FIELD(fmt_log_entry, offset),
    FIELD(fmt_log_entry, old),

    SIZE(fmt_log),
    FIELD(fmt_log, count),
    FIELD(fmt_log, transaction),
    FIELD(fmt_log, entry),

    SIZE(fmt_transaction),
    FIELD(fmt_transaction, magic),
    FIELD(fmt_transaction, committed),
    FIELD(fmt_transaction, words),
    FIELD(fmt_transaction, segments),

    SIZE(fmt_segment),
    FIELD(fmt_segment, count),
    FIELD(fmt_segment, entries),
    FIELD(fmt_segment, capacity),
    FIELD(fmt_segment, shard),

    SIZE(fmt_allocator),
    FIELD(fmt_allocator, l),
    FIELD(fmt_allocator, zone_count),
    FIELD(fmt_allocator, waiting_head),
    FIELD(fmt_allocator, waiting_tail),
    FIELD(fmt_allocator, waiting_pages),
    FIELD(fmt_allocator, free_pages),
    FIELD(fmt_allocator, last_zone),
    FIELD(fmt_allocator, intent_offset),
    FIELD(fmt_allocator, intent_pages),
    FIELD(fmt_allocator, intent_give),
    FIELD(fmt_allocator, harvesting),
    FIELD(fmt_allocator, failed),
    FIELD(fmt_allocator, reserved),
    FIELD(fmt_allocator, log),

    SIZE(fmt_zone),
    FIELD(fmt_zone, offset),
    FIELD(fmt_zone, pages),
    FIELD(fmt_zone, kind),
    FIELD(fmt_zone, reserved),
    FIELD(fmt_zone, checksum),

    SIZE(fmt_zone_state),
    FIELD(fmt_zone_state, free),
    FIELD(fmt_zone_state, run_max),
    FIELD(fmt_zone_state, hint),
    FIELD(fmt_zone_state, reserved),

    SIZE(fmt_class),
    FIELD(fmt_class, available),
    FIELD(fmt_class, waiting),
    FIELD(fmt_class, pages),
    FIELD(fmt_class, singles),

    SIZE(fmt_shard),
    FIELD(fmt_shard, l),
    FIELD(fmt_shard, directory),
    FIELD(fmt_shard, reserve),
    FIELD(fmt_shard, release),
    FIELD(fmt_shard, failed),
    FIELD(fmt_shard, epoch),
    FIELD(fmt_shard, count),
    FIELD(fmt_shard, sum),
    FIELD(fmt_shard, bytes),
    FIELD(fmt_shard, tables),
    FIELD(fmt_shard, chunks),
    FIELD(fmt_shard, written),
    FIELD(fmt_shard, reserved),
    FIELD(fmt_shard, class_),
    FIELD(fmt_shard, tail_reserved),
    FIELD(fmt_shard, embedded),
    FIELD(fmt_shard, log),

    SIZE(fmt_extent),
    FIELD(fmt_extent, born),
    FIELD(fmt_extent, dead),
    FIELD(fmt_extent, pages),
    FIELD(fmt_extent, shard),
    FIELD(fmt_extent, class_),
    FIELD(fmt_extent, type),
    FIELD(fmt_extent, link),

    SIZE(fmt_chunk),
    FIELD(fmt_chunk, next),
    FIELD(fmt_chunk, prev),
    FIELD(fmt_chunk, live),
    FIELD(fmt_chunk, free),
    FIELD(fmt_chunk, waiting),
    FIELD(fmt_chunk, list),
    FIELD(fmt_chunk, waiting_epoch),
    FIELD(fmt_chunk, shard),
    FIELD(fmt_chunk, class_),
    FIELD(fmt_chunk, order),
    FIELD(fmt_chunk, blocks),
    FIELD(fmt_chunk, hint),
    FIELD(fmt_chunk, reserved),

    SIZE(fmt_epochs),
    FIELD(fmt_epochs, born),
    FIELD(fmt_epochs, dead),

    SIZE(fmt_record),
    FIELD(fmt_record, checksum),
    FIELD(fmt_record, key_length),
    FIELD(fmt_record, flags),
    FIELD(fmt_record, value_length),

    SIZE(fmt_table_header),
    FIELD(fmt_table_header, prefix),
    FIELD(fmt_table_header, depth),
    FIELD(fmt_table_header, shard),
    FIELD(fmt_table_header, stash_tags),
    FIELD(fmt_table_header, reserved),

    SIZE(fmt_bucket),
    FIELD(fmt_bucket, tags),
    FIELD(fmt_bucket, entry),

    SIZE(fmt_table),
    FIELD(fmt_table, header),
    FIELD(fmt_table, line),
};

/* Arguments at which the document prints what these two formulas come to. */
static const struct sample {
    uint64_t word, offset;
} stamps[] = {
    { 0, 0 },
    { 0, 0xc3488 },
    { 1, 0xc3480 },
    { 7, 0xc3480 },
    { 7, 0x1080 },
    { 0xffffffffffff, 0x7ffffffffff8 },
}, checks[] = {
    { 0, 0xb1000 },
    { 0x0112000300000001, 0xb1200 },
    { 0x0200003f00000100, 0xb2fe0 },
    { 0xffffffffffffffff, 0x7fffffffffe0 },
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ORDERS (FMT_CHUNK_ORDER_MAX + 1u)

/* After the structures come values of the formulas, named as calls: "fmt_class_size(17)". They are compared too,
 * because a formula told twice drifts like an offset told twice. */
int mmkv_layout(size_t i, char *name, size_t name_capacity, uint64_t *value)
{
    if (i < COUNT(entries)) {
        (void)snprintf(name, name_capacity, "%s", entries[i].name);
        *value = entries[i].value;
        return 1;
    }
    i -= COUNT(entries);
    if (i < FMT_CLASSES) {
        (void)snprintf(name, name_capacity, "fmt_class_size(%u)", (unsigned)i);
        *value = fmt_class_size((uint32_t)i);
        return 1;
    }
    i -= FMT_CLASSES;
    if (i < FMT_CLASSES * ORDERS) {
        uint32_t class_ = (uint32_t)(i / ORDERS), order = (uint32_t)(i % ORDERS);
        (void)snprintf(name, name_capacity, "fmt_chunk_blocks(%u,%u)", order, class_);
        *value = fmt_chunk_blocks(order, fmt_class_size(class_));
        return 1;
    }
    i -= FMT_CLASSES * ORDERS;
    if (i < FMT_CLASSES) {
        uint32_t blocks = fmt_chunk_blocks(FMT_CHUNK_ORDER_MAX, fmt_class_size((uint32_t)i));
        (void)snprintf(name, name_capacity, "fmt_chunk_blocks_at(%u)", blocks);
        *value = fmt_chunk_blocks_at(blocks);
        return 1;
    }
    i -= FMT_CLASSES;
    if (i < COUNT(stamps)) {
        const struct sample *x = &stamps[i];
        (void)snprintf(name, name_capacity, "fmt_stamp(0x%llx,0x%llx)", (unsigned long long)x->word, (unsigned long long)x->offset);
        *value = fmt_stamp(x->word, x->offset);
        return 1;
    }
    i -= COUNT(stamps);
    if (i < COUNT(checks)) {
        const struct sample *x = &checks[i];
        (void)snprintf(name, name_capacity, "fmt_extent_check(0x%llx,0x%llx)", (unsigned long long)x->word,
                       (unsigned long long)x->offset);
        *value = fmt_extent_check(x->word, x->offset);
        return 1;
    }
    return 0;
}
