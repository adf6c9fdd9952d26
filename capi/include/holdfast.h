/* Holdfast for C. Made by cbindgen of capi/src; not to be edited.
 *
 * Everything that can fail gives a holdfast_code; what went wrong is in holdfast_last_error. A timeout is in milliseconds,
 * and no wait is longer.
 *
 * Handles come from the functions whose last argument they are, and go with the function that closes them; NULL may be
 * closed. They are numbers, none of which is used twice: one that is NULL, closed, of another kind or no handle at all gives
 * HOLDFAST_INVALID. A producer, consumer or group is for one thread at a time, and HOLDFAST_ORDER tells whoever comes in
 * between; closing does not wait, and lets a call that is going on come to its end. A session is for the thread that
 * attached. What pointers lead to is not looked at: memory of a producer or of pinned content is there until what it came
 * from is closed, and no longer.
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
  /*
   The region, its object table, or what one transaction may hold, is full.
   */
  HOLDFAST_FULL = 9,
  /*
   There is an object of that name, of another kind.
   */
  HOLDFAST_EXISTS = 10,
  /*
   The session is another thread's, or that of the process that this one was forked from.
   */
  HOLDFAST_ELSEWHERE = 11,
  /*
   No instance is there, it lets this user not in, or it has ended the session: attach again.
   */
  HOLDFAST_AWAY = 12,
  /*
   The map has no such key.
   */
  HOLDFAST_NO_KEY = 13,
  /*
   Another held an object's lock for too long.
   */
  HOLDFAST_LOCKED = 14,
  /*
   The folder holds something.
   */
  HOLDFAST_NOT_EMPTY = 15,
} holdfast_code;

/*
 What a name in a folder stands for.
 */
typedef enum {
  /*
   A folder.
   */
  HOLDFAST_FOLDER = 1,
  /*
   A map.
   */
  HOLDFAST_MAP = 2,
  /*
   A counter.
   */
  HOLDFAST_COUNTER = 3,
  /*
   A queue.
   */
  HOLDFAST_QUEUE = 4,
  /*
   A blob.
   */
  HOLDFAST_BLOB = 5,
} holdfast_kind;

/*
 A directory of blocks. Any threads may use it together. A child that was forked may use it too, and what was opened in it: it
 has files and locks of its own then, and begins with nothing held and nothing begun; what its parent has stays the parent's.
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
 Content that stays as it is until it is unpinned. Any threads may use it together.
 */
typedef struct holdfast_pinned holdfast_pinned;

/*
 A producer of a block.
 */
typedef struct holdfast_producer holdfast_producer;

/*
 A share in the region of a running instance, for the thread that attached: to change things in transactions, or to view
 them only. Another thread attaches for itself; a child that was forked has none of its parent's. What is wrong with a
 handle is told: HOLDFAST_INVALID if it was closed, HOLDFAST_ELSEWHERE if it is another thread's or the parent's.

 A process that is killed is repaired: what it had half done is undone, what it had locked is free. A thread that ends
 closes its sessions.
 */
typedef struct holdfast_session holdfast_session;

/*
 A blob in a folder, as holdfast_map.
 */
typedef struct {
  /*
   Which it is.
   */
  uint64_t object;
} holdfast_blob;

/*
 A counter in a folder, as holdfast_map.
 */
typedef struct {
  /*
   Which it is.
   */
  uint64_t object;
} holdfast_counter;

/*
 A queue in a folder, as holdfast_map.
 */
typedef struct {
  /*
   Which it is.
   */
  uint64_t object;
} holdfast_queue;

/*
 An item that a session has taken from a queue, until it is finished or put back. If the program is killed, or closes the
 session, it is put back to where it was.
 */
typedef struct {
  /*
   The how manieth it is.
   */
  uint64_t serial;
} holdfast_item;

/*
 A map in a folder. It need not be closed, and any session of the instance may use it.
 */
typedef struct {
  /*
   Which it is.
   */
  uint64_t object;
} holdfast_map;

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
 A function that takes these.
 */
holdfast_code holdfast_blocks_names(holdfast_blocks *blocks,
                                    void (*each)(const char *name, void *context),
                                    void *context);

/*
 Takes a block's name away. Consumers are told, producers begin another block.

 # Safety
 A text.
 */
holdfast_code holdfast_blocks_remove(holdfast_blocks *blocks, const char *name, uint64_t timeout_ms);

/*
 Closes the directory. What was opened in it stays open.
 */
holdfast_code holdfast_blocks_close(holdfast_blocks *blocks);

/*
 Opens a consumer of the block `name`; HOLDFAST_UNKNOWN where there is none.

 # Safety
 A text; a place for a handle.
 */
holdfast_code holdfast_consumer_open(holdfast_blocks *blocks, const char *name, holdfast_consumer **consumer);

/*
 Waits for something newer than what this consumer has read or pinned last: HOLDFAST_OK if there is, HOLDFAST_TIMED_OUT
 if not.
 */
holdfast_code holdfast_consumer_wait(holdfast_consumer *consumer,
                                     uint64_t timeout_ms);

/*
 Copies the newest content to `data`, where `capacity` bytes fit. How many there are goes to `length`, also with
 HOLDFAST_TOO_LARGE, which says that they do not fit. The version goes to `version`, unless that is NULL.

 # Safety
 So many bytes; a place for a length, and for a version or NULL.
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
 A place for a handle.
 */
holdfast_code holdfast_consumer_pin(holdfast_consumer *consumer,
                                    holdfast_pinned **pinned);

/*
 Keeps every producer of the block, and of its group, waiting.
 */
holdfast_code holdfast_consumer_lock(holdfast_consumer *consumer, uint64_t timeout_ms);

/*
 Lets them go on.
 */
holdfast_code holdfast_consumer_unlock(holdfast_consumer *consumer);

/*
 Closes the consumer. What it has pinned stays pinned.
 */
holdfast_code holdfast_consumer_close(holdfast_consumer *consumer);

/*
 Opens the group `name`, which need not be made.

 # Safety
 A text; a place for a handle.
 */
holdfast_code holdfast_group_open(holdfast_blocks *blocks, const char *name, holdfast_group **group);

/*
 Keeps every producer of the group waiting: what is read from its blocks meanwhile was there together.
 */
holdfast_code holdfast_group_hold_for_reading(holdfast_group *group, uint64_t timeout_ms);

/*
 Keeps every other producer of the group waiting, and every consumer that wants its lock.
 */
holdfast_code holdfast_group_hold_for_writing(holdfast_group *group, uint64_t timeout_ms);

/*
 As holdfast_producer_publish, for a block of the group, which is held for writing.

 # Safety
 So many bytes; a place for a number, or NULL.
 */
holdfast_code holdfast_group_publish(holdfast_group *group,
                                     holdfast_producer *producer,
                                     const void *data,
                                     size_t length,
                                     uint64_t timeout_ms,
                                     uint64_t *version);

/*
 Gives the lock back.
 */
holdfast_code holdfast_group_release(holdfast_group *group);

/*
 Closes the group. Its lock is free then.
 */
holdfast_code holdfast_group_close(holdfast_group *group);

/*
 What went wrong in this thread last, in one sentence; empty if nothing did, and for a thread that ends and has only its
 destructors to run. It stays until the next call that fails.
 */
const char *holdfast_last_error(void);

/*
 This library's version.
 */
const char *holdfast_version(void);

/*
 Where pinned content is, until it is closed; NULL only for a handle that is not good.
 */
const void *holdfast_pinned_data(const holdfast_pinned *pinned);

/*
 How many bytes it has; 0 only for a handle that is not good.
 */
size_t holdfast_pinned_length(const holdfast_pinned *pinned);

/*
 Its version; 0 only for a handle that is not good.
 */
uint64_t holdfast_pinned_version(const holdfast_pinned *pinned);

/*
 Lets producers write there again.
 */
holdfast_code holdfast_pinned_close(holdfast_pinned *pinned);

/*
 Opens a producer of the block `name`, which is there from the first content on. `size` bytes are reserved, and no more
 accepted; with 0 the block grows as needed. `group` is the group whose lock it shares, or NULL.

 # Safety
 Texts; a place for a handle.
 */
holdfast_code holdfast_producer_open(holdfast_blocks *blocks,
                                     const char *name,
                                     uint64_t size,
                                     const char *group,
                                     holdfast_producer **producer);

/*
 Makes `length` bytes at `data` the block's content; its version goes to `version`, unless that is NULL.

 # Safety
 So many bytes; a place for a number, or NULL.
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
 A place for a pointer.
 */
holdfast_code holdfast_producer_begin(holdfast_producer *producer,
                                      size_t length,
                                      uint64_t timeout_ms,
                                      void **memory);

/*
 Makes the content that was begun the block's. HOLDFAST_REMOVED says that the block was removed meanwhile: begin again.

 # Safety
 A place for a number, or NULL.
 */
holdfast_code holdfast_producer_commit(holdfast_producer *producer,
                                       uint64_t timeout_ms,
                                       uint64_t *version);

/*
 Forgets the content that was begun, if any.
 */
holdfast_code holdfast_producer_abandon(holdfast_producer *producer);

/*
 Takes the block's lock and keeps it: no other producer writes, and none that follows pays for locks. Content that was
 begun is forgotten. Before the first content there is nothing to hold, unless the block has a group: whoever publishes first
 has the lock then, and the others' content waits for it.
 */
holdfast_code holdfast_producer_hold(holdfast_producer *producer,
                                     uint64_t timeout_ms);

/*
 Gives the lock back.
 */
holdfast_code holdfast_producer_release(holdfast_producer *producer);

/*
 Closes the producer. The block stays.
 */
holdfast_code holdfast_producer_close(holdfast_producer *producer);

/*
 The blob `name` in a folder, as holdfast_map_open; it is made empty.

 # Safety
 Texts; a place for a blob.
 */
holdfast_code holdfast_blob_open(holdfast_session *session,
                                 const char *folder,
                                 const char *name,
                                 holdfast_blob *blob);

/*
 All of it, as it was at one moment: `length` bytes at `data`, which stay there until the session's next call.

 # Safety
 Places for a pointer and a length.
 */
holdfast_code holdfast_blob_get(holdfast_session *session,
                                holdfast_blob blob,
                                const void **data,
                                size_t *length);

/*
 Replaces all of it.

 # Safety
 So many bytes.
 */
holdfast_code holdfast_blob_set(holdfast_session *session,
                                holdfast_blob blob,
                                const void *data,
                                size_t length);

/*
 How many bytes it has.

 # Safety
 A place for a number.
 */
holdfast_code holdfast_blob_length(holdfast_session *session, holdfast_blob blob, uint64_t *length);

/*
 Copies the `length` bytes from `offset` on to `data`, as they were at one moment; HOLDFAST_INVALID where it does not reach
 so far.

 # Safety
 Room for so many bytes.
 */
holdfast_code holdfast_blob_read(holdfast_session *session,
                                 holdfast_blob blob,
                                 uint64_t offset,
                                 void *data,
                                 size_t length);

/*
 Replaces the bytes from `offset` on by the `length` bytes at `data`; its length stays. HOLDFAST_INVALID where it does not
 reach so far.

 # Safety
 So many bytes.
 */
holdfast_code holdfast_blob_write(holdfast_session *session,
                                  holdfast_blob blob,
                                  uint64_t offset,
                                  const void *data,
                                  size_t length);

/*
 The counter `name` in a folder, as holdfast_map_open.

 # Safety
 Texts; a place for a counter.
 */
holdfast_code holdfast_counter_open(holdfast_session *session,
                                    const char *folder,
                                    const char *name,
                                    holdfast_counter *counter);

/*
 Its value.

 # Safety
 A place for a number.
 */
holdfast_code holdfast_counter_get(holdfast_session *session, holdfast_counter counter, uint64_t *value);

/*
 Adds to it; the sum, which wraps around at 2^64, goes to `sum`, unless that is NULL.

 # Safety
 A place for a number, or NULL.
 */
holdfast_code holdfast_counter_add(holdfast_session *session,
                                   holdfast_counter counter,
                                   uint64_t amount,
                                   uint64_t *sum);

/*
 Gives it another value.
 */
holdfast_code holdfast_counter_set(holdfast_session *session, holdfast_counter counter, uint64_t value);

/*
 Makes the folder at the path `folder`, and those that lead to it, where they are not there.

 # Safety
 A text.
 */
holdfast_code holdfast_folder_make(holdfast_session *session, const char *folder);

/*
 Calls `each` with every name in a folder, in order, and with `context`, until it gives something other than 0. Without a
 folder (NULL) they are those of the folders at the top. Not within a transaction. HOLDFAST_UNKNOWN where there is no such
 folder.

 # Safety
 A text or NULL; a function that takes these.
 */
holdfast_code holdfast_folder_each(holdfast_session *session,
                                   const char *folder,
                                   int (*each)(const char *name, holdfast_kind kind, void *context),
                                   void *context);

/*
 Deletes the folder at the path `folder`: HOLDFAST_UNKNOWN where there is none, HOLDFAST_NOT_EMPTY where it holds something.

 # Safety
 A text.
 */
holdfast_code holdfast_folder_delete(holdfast_session *session,
                                     const char *folder);

/*
 Moves the folder at the path `folder`, with all that is in it, to the path `to`, where nothing is (HOLDFAST_EXISTS) in a
 folder that is there.

 # Safety
 Texts.
 */
holdfast_code holdfast_folder_rename(holdfast_session *session,
                                     const char *folder,
                                     const char *to);

/*
 Deletes the object of this name from a folder; HOLDFAST_UNKNOWN where there is none. A queue's waiters are told. Folders
 are deleted by holdfast_folder_delete.

 # Safety
 Texts.
 */
holdfast_code holdfast_delete(holdfast_session *session,
                              const char *folder,
                              const char *name);

/*
 Gives the object of this name another one, in the same folder or in another, which is made if it is not there. What refers
 to the object goes on as before. HOLDFAST_UNKNOWN where there is none, HOLDFAST_EXISTS where the other name is taken.

 # Safety
 Texts.
 */
holdfast_code holdfast_rename(holdfast_session *session,
                              const char *folder,
                              const char *name,
                              const char *to_folder,
                              const char *to_name);

/*
 Takes the first item, to be worked on and then finished: `length` bytes at `data`, which stay there until the session's
 next call. Waits as holdfast_queue_pop_front does. A session has at most 12 items (HOLDFAST_FULL).

 # Safety
 Places for an item, a pointer and a length.
 */
holdfast_code holdfast_queue_take_front(holdfast_session *session,
                                        holdfast_queue queue,
                                        uint64_t timeout_ms,
                                        holdfast_item *item,
                                        const void **data,
                                        size_t *length);

/*
 Takes the last item, likewise.

 # Safety
 As holdfast_queue_take_front.
 */
holdfast_code holdfast_queue_take_back(holdfast_session *session,
                                       holdfast_queue queue,
                                       uint64_t timeout_ms,
                                       holdfast_item *item,
                                       const void **data,
                                       size_t *length);

/*
 What was to be done with an item is done: it is gone, with the transaction if one is open. HOLDFAST_UNKNOWN where this
 session does not have it (any more).
 */
holdfast_code holdfast_item_finish(holdfast_session *session,
                                   holdfast_item item);

/*
 Puts an item back to the end of its queue that it was taken from, also where the queue is full by now. HOLDFAST_UNKNOWN
 where this session does not have it (any more), or its queue was deleted: it can be finished then.
 */
holdfast_code holdfast_item_put_back(holdfast_session *session,
                                     holdfast_item item);

/*
 The map `name` in the folder at the path `folder` (names with `/` between them); what is not there is made. A view makes
 nothing, and gives HOLDFAST_UNKNOWN.

 # Safety
 Texts; a place for a map.
 */
holdfast_code holdfast_map_open(holdfast_session *session,
                                const char *folder,
                                const char *name,
                                holdfast_map *map);

/*
 The value under a key: `length` bytes at `data`, which stay there until the session's next call. HOLDFAST_NO_KEY where
 there is no such key. Within a transaction the map is locked and read with its changes; without one nothing is locked.

 # Safety
 So many bytes; places for a pointer and a length.
 */
holdfast_code holdfast_map_get(holdfast_session *session,
                               holdfast_map map,
                               const void *key,
                               size_t key_length,
                               const void **data,
                               size_t *length);

/*
 Puts a value under a key, in place of what was there.

 # Safety
 So many bytes each.
 */
holdfast_code holdfast_map_put(holdfast_session *session,
                               holdfast_map map,
                               const void *key,
                               size_t key_length,
                               const void *value,
                               size_t value_length);

/*
 Removes what is under a key; HOLDFAST_NO_KEY where there is nothing.

 # Safety
 So many bytes.
 */
holdfast_code holdfast_map_remove(holdfast_session *session,
                                  holdfast_map map,
                                  const void *key,
                                  size_t key_length);

/*
 How many entries it has.

 # Safety
 A place for a number.
 */
holdfast_code holdfast_map_length(holdfast_session *session, holdfast_map map, uint64_t *length);

/*
 Calls `each` with every entry, in no order, and with `context`, until it gives something other than 0. Not within a
 transaction. Others go on changing the map: an entry that is there all the while is given once, another at most once.

 # Safety
 A function that takes these; the bytes are there until it returns.
 */
holdfast_code holdfast_map_each(holdfast_session *session,
                                holdfast_map map,
                                int (*each)(const void *key,
                                            size_t key_length,
                                            const void *value,
                                            size_t value_length,
                                            void *context),
                                void *context);

/*
 The queue `name` in a folder, as holdfast_map_open. One that is made takes at most `capacity` items, or any number with 0.

 # Safety
 Texts; a place for a queue.
 */
holdfast_code holdfast_queue_open(holdfast_session *session,
                                  const char *folder,
                                  const char *name,
                                  uint64_t capacity,
                                  holdfast_queue *queue);

/*
 How many items it has.

 # Safety
 A place for a number.
 */
holdfast_code holdfast_queue_length(holdfast_session *session, holdfast_queue queue, uint64_t *length);

/*
 Puts an item behind the last one. Waits for so long until there is room; HOLDFAST_TIMED_OUT if there is none. Within a
 transaction nothing is waited for: see holdfast_begin_with_room.

 # Safety
 So many bytes.
 */
holdfast_code holdfast_queue_push_back(holdfast_session *session,
                                       holdfast_queue queue,
                                       const void *item,
                                       size_t length,
                                       uint64_t timeout_ms);

/*
 Puts an item before the first one, likewise.

 # Safety
 So many bytes.
 */
holdfast_code holdfast_queue_push_front(holdfast_session *session,
                                        holdfast_queue queue,
                                        const void *item,
                                        size_t length,
                                        uint64_t timeout_ms);

/*
 Takes the first item out: `length` bytes at `data`, which stay there until the session's next call. Waits for so long until
 there is one; HOLDFAST_TIMED_OUT if there is none. Within a transaction nothing is waited for: see
 holdfast_begin_with_item.

 # Safety
 Places for a pointer and a length.
 */
holdfast_code holdfast_queue_pop_front(holdfast_session *session,
                                       holdfast_queue queue,
                                       uint64_t timeout_ms,
                                       const void **data,
                                       size_t *length);

/*
 Takes the last item out, likewise.

 # Safety
 Places for a pointer and a length.
 */
holdfast_code holdfast_queue_pop_back(holdfast_session *session,
                                      holdfast_queue queue,
                                      uint64_t timeout_ms,
                                      const void **data,
                                      size_t *length);

/*
 Attaches to the instance that owns this run directory; NULL is the usual one. HOLDFAST_AWAY where there is none, or it
 does not let this user in.

 # Safety
 A text or NULL; a place for a handle.
 */
holdfast_code holdfast_session_attach(const char *run_dir,
                                      holdfast_session **session);

/*
 The same to read only: it takes no slot, and can change nothing (HOLDFAST_ORDER).

 # Safety
 As holdfast_session_attach.
 */
holdfast_code holdfast_session_view(const char *run_dir, holdfast_session **session);

/*
 Says what this program is doing, for the status and for the report of a crash. Not within a transaction.

 # Safety
 A text.
 */
holdfast_code holdfast_session_doing(holdfast_session *session, const char *doing);

/*
 Rolls back what is open, and gives the slot back. The handle is closed also where this fails.
 */
holdfast_code holdfast_session_close(holdfast_session *session);

/*
 Begins a transaction. What is changed until holdfast_commit is there wholly or not at all, whoever is killed. What it uses
 is locked until then, and others wait: keep it short. Without a transaction each call is one of its own.

 A call that fails rolls the transaction back at once, and all that follow give HOLDFAST_ORDER until it is ended; except
 that HOLDFAST_NO_KEY, HOLDFAST_TIMED_OUT for a queue that is empty or full, and HOLDFAST_UNKNOWN for what is to be deleted
 leave it as it is.
 */
holdfast_code holdfast_begin(holdfast_session *session);

/*
 Begins one once a queue has an item, which is there to be popped. Who dies before the commit leaves it to the next.
 */
holdfast_code holdfast_begin_with_item(holdfast_session *session,
                                       holdfast_queue queue,
                                       uint64_t timeout_ms);

/*
 Begins one once a queue has room for an item.
 */
holdfast_code holdfast_begin_with_room(holdfast_session *session, holdfast_queue queue, uint64_t timeout_ms);

/*
 Makes all changes of the transaction valid, and ends it. If this fails there is none of them.
 */
holdfast_code holdfast_commit(holdfast_session *session);

/*
 Undoes all changes of the transaction, and ends it.
 */
holdfast_code holdfast_rollback(holdfast_session *session);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HOLDFAST_H */
