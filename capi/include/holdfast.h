/* Holdfast for C. Made by cbindgen of capi/src; not to be edited.
 *
 * Everything that can fail gives a holdfast_code; what went wrong is in holdfast_last_error. Handles come from the
 * functions whose last argument they are, and go with the function that closes them; NULL may be closed. A handle is for
 * one thread at a time, different handles are for any threads. A timeout is in milliseconds, and no wait is longer.
 */

#ifndef HOLDFAST_H
#define HOLDFAST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 How a call ended.
 */
typedef enum {
  /*
   As it should.
   */
  HOLDFAST_OK = 0,
  /*
   The system refused something, such as memory.
   */
  HOLDFAST_FAILED = 1,
  /*
   An argument cannot be used: a name, a directory, a NULL.
   */
  HOLDFAST_INVALID = 2,
  /*
   There is nothing of this name.
   */
  HOLDFAST_UNKNOWN = 3,
  /*
   It was removed while it was used.
   */
  HOLDFAST_REMOVED = 4,
  /*
   The time was over.
   */
  HOLDFAST_TIMED_OUT = 5,
  /*
   More bytes than fit.
   */
  HOLDFAST_TOO_LARGE = 6,
  /*
   The file is not to be used: damaged, somebody else's, or of another version.
   */
  HOLDFAST_REFUSED = 7,
  /*
   Another call comes first.
   */
  HOLDFAST_ORDER = 8,
} holdfast_code;

/*
 A directory of blocks.
 */
typedef struct holdfast_blocks holdfast_blocks;

/*
 A consumer of a block.
 */
typedef struct holdfast_consumer holdfast_consumer;

/*
 A group of blocks.
 */
typedef struct holdfast_group holdfast_group;

/*
 Content that stays as it is until it is unpinned.
 */
typedef struct holdfast_pinned holdfast_pinned;

/*
 A producer of a block.
 */
typedef struct holdfast_producer holdfast_producer;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Opens a directory of blocks; NULL is `blocks` in the run directory. HOLDFAST_UNKNOWN where there is none.

 # Safety
 A text or NULL; a place for a handle.
 */
holdfast_code holdfast_blocks_open(const char *directory, holdfast_blocks **blocks);

/*
 The same, made if it is not there.

 # Safety
 As holdfast_blocks_open.
 */
holdfast_code holdfast_blocks_create(const char *directory, holdfast_blocks **blocks);

/*
 Calls `each` with the name of each block and with `context`.

 # Safety
 A handle; a function that takes these.
 */
holdfast_code holdfast_blocks_names(holdfast_blocks *blocks,
                                    void (*each)(const char *name, void *context),
                                    void *context);

/*
 Takes a block's name away. Consumers are told, producers begin another block.

 # Safety
 A handle; a text.
 */
holdfast_code holdfast_blocks_remove(holdfast_blocks *blocks, const char *name, uint64_t timeout_ms);

/*
 Closes the directory. What was opened in it stays open.

 # Safety
 A handle or NULL, which is not used any more.
 */
void holdfast_blocks_close(holdfast_blocks *blocks);

/*
 Opens a consumer of the block `name`; HOLDFAST_UNKNOWN where there is none.

 # Safety
 A handle; a text; a place for a handle.
 */
holdfast_code holdfast_consumer_open(holdfast_blocks *blocks, const char *name, holdfast_consumer **consumer);

/*
 Waits for something newer than what this consumer has read or pinned last: HOLDFAST_OK if there is, HOLDFAST_TIMED_OUT
 if not.

 # Safety
 A handle.
 */
holdfast_code holdfast_consumer_wait(holdfast_consumer *consumer,
                                     uint64_t timeout_ms);

/*
 Copies the newest content to `data`, where `capacity` bytes fit. How many there are goes to `length`, also with
 HOLDFAST_TOO_LARGE, which says that they do not fit. The version goes to `version`, unless that is NULL.

 # Safety
 A handle; so many bytes; a place for a length, and for a version or NULL.
 */
holdfast_code holdfast_consumer_read(holdfast_consumer *consumer,
                                     void *data,
                                     size_t capacity,
                                     size_t *length,
                                     uint64_t *version);

/*
 The newest content as it lies in memory: no producer writes to it until it is unpinned, and consumer and block may be
 closed or removed meanwhile.

 # Safety
 A handle; a place for one.
 */
holdfast_code holdfast_consumer_pin(holdfast_consumer *consumer,
                                    holdfast_pinned **pinned);

/*
 Where pinned content is; NULL only for NULL.

 # Safety
 A handle or NULL.
 */
const void *holdfast_pinned_data(const holdfast_pinned *pinned);

/*
 How many bytes it has; 0 only for NULL.

 # Safety
 A handle or NULL.
 */
size_t holdfast_pinned_length(const holdfast_pinned *pinned);

/*
 Its version; 0 only for NULL.

 # Safety
 A handle or NULL.
 */
uint64_t holdfast_pinned_version(const holdfast_pinned *pinned);

/*
 Lets producers write there again.

 # Safety
 A handle or NULL, which is not used any more.
 */
void holdfast_pinned_close(holdfast_pinned *pinned);

/*
 Keeps every producer of the block, and of its group, waiting.

 # Safety
 A handle.
 */
holdfast_code holdfast_consumer_lock(holdfast_consumer *consumer, uint64_t timeout_ms);

/*
 Lets them go on.

 # Safety
 A handle.
 */
holdfast_code holdfast_consumer_unlock(holdfast_consumer *consumer);

/*
 Closes the consumer. What it has pinned stays pinned.

 # Safety
 A handle or NULL, which is not used any more.
 */
void holdfast_consumer_close(holdfast_consumer *consumer);

/*
 Opens the group `name`, which need not be made.

 # Safety
 A handle; a text; a place for a handle.
 */
holdfast_code holdfast_group_open(holdfast_blocks *blocks, const char *name, holdfast_group **group);

/*
 Keeps every producer of the group waiting: what is read from its blocks meanwhile was there together.

 # Safety
 A handle.
 */
holdfast_code holdfast_group_hold_for_reading(holdfast_group *group, uint64_t timeout_ms);

/*
 Keeps every other producer of the group waiting, and every consumer that wants its lock.

 # Safety
 A handle.
 */
holdfast_code holdfast_group_hold_for_writing(holdfast_group *group, uint64_t timeout_ms);

/*
 As holdfast_producer_publish, for a block of the group, which is held for writing.

 # Safety
 Handles; so many bytes; a place for a number, or NULL.
 */
holdfast_code holdfast_group_publish(holdfast_group *group,
                                     holdfast_producer *producer,
                                     const void *data,
                                     size_t length,
                                     uint64_t timeout_ms,
                                     uint64_t *version);

/*
 Gives the lock back.

 # Safety
 A handle.
 */
holdfast_code holdfast_group_release(holdfast_group *group);

/*
 Closes the group. Its lock is free then.

 # Safety
 A handle or NULL, which is not used any more.
 */
void holdfast_group_close(holdfast_group *group);

/*
 What went wrong in this thread last, in one sentence; empty if nothing did. It stays until the next call that fails.
 */
const char *holdfast_last_error(void);

/*
 This library's version.
 */
const char *holdfast_version(void);

/*
 Opens a producer of the block `name`, which is there from the first content on. `size` bytes are reserved, and no more
 accepted; with 0 the block grows as needed. `group` is the group whose lock it shares, or NULL.

 # Safety
 A handle; texts; a place for a handle.
 */
holdfast_code holdfast_producer_open(holdfast_blocks *blocks,
                                     const char *name,
                                     uint64_t size,
                                     const char *group,
                                     holdfast_producer **producer);

/*
 Makes `length` bytes at `data` the block's content; its version goes to `version`, unless that is NULL.

 # Safety
 A handle; so many bytes; a place for a number.
 */
holdfast_code holdfast_producer_publish(holdfast_producer *producer,
                                        const void *data,
                                        size_t length,
                                        uint64_t timeout_ms,
                                        uint64_t *version);

/*
 Begins content of `length` bytes, to be written at `memory`, where anything is before. HOLDFAST_OK gives memory that is
 the caller's until any other call with this producer.

 # Safety
 A handle; a place for a pointer.
 */
holdfast_code holdfast_producer_begin(holdfast_producer *producer,
                                      size_t length,
                                      uint64_t timeout_ms,
                                      void **memory);

/*
 Makes the content that was begun the block's. HOLDFAST_REMOVED says that the block was removed meanwhile: begin again.

 # Safety
 A handle; a place for a number, or NULL.
 */
holdfast_code holdfast_producer_commit(holdfast_producer *producer,
                                       uint64_t timeout_ms,
                                       uint64_t *version);

/*
 Forgets the content that was begun, if any.

 # Safety
 A handle.
 */
holdfast_code holdfast_producer_abandon(holdfast_producer *producer);

/*
 Takes the block's lock and keeps it: no other producer writes, and none that follows pays for locks.

 # Safety
 A handle.
 */
holdfast_code holdfast_producer_hold(holdfast_producer *producer, uint64_t timeout_ms);

/*
 Gives the lock back.

 # Safety
 A handle.
 */
holdfast_code holdfast_producer_release(holdfast_producer *producer);

/*
 Closes the producer. The block stays.

 # Safety
 A handle or NULL, which is not used any more.
 */
void holdfast_producer_close(holdfast_producer *producer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HOLDFAST_H */
