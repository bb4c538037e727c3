/* race.h: what the two files of the driver share. */
#ifndef RACE_H
#define RACE_H

/* For what the sanitizer is not to see. */
#define UNSEEN __attribute__((no_sanitize("thread")))

#endif
