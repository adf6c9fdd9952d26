//! What queues and blobs are made of: items and chunks, each a block.

use std::sync::atomic::AtomicU64;

use super::{Before, Flaw, Part, Survey};
use crate::heap;
use crate::ids::Offset;
use crate::objects::buckets::{Page, WORD};
use crate::objects::items::{self, BYTES, Node};
use crate::objects::reading::Broken;
use crate::objects::{Kind, chunks};

/// An item of a queue or a chunk of a blob, its bounds checked.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Where its block begins.
    pub offset: Offset,
    /// Bytes of the block that it needs.
    pub size: usize,
    words: &'a [AtomicU64],
    length: usize,
    first: Offset,
    before: &'a Before,
}

impl Piece<'_> {
    /// Whether it is filled up to whole words with zeros, as items are.
    pub fn is_filled_up(&self) -> bool {
        let place = Offset(self.first.0 + (self.words.len().saturating_sub(1) * WORD) as u64);
        super::is_filled_up(self.words.last().map(|word| self.before.word(place, word)), self.length)
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let offsets = (self.first.0..).step_by(WORD);
        let words =
            self.words.iter().zip(offsets).map(|(word, offset)| self.before.word(Offset(offset), word));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(self.length);
        bytes
    }
}

impl<'a> Survey<'a> {
    pub(super) fn check_items(&self) -> Result<(), Flaw> {
        if self.count() > heap::most_blocks(self.region) {
            return Err(Flaw(format!("it says that it has {} items, which is impossible", self.count())));
        }
        Ok(())
    }

    pub(super) fn check_chunks(&self, kind: Kind) -> Result<(), Flaw> {
        let (length, count, root) = (self.count(), self.body[chunks::CHUNKS], self.body[chunks::ROOT]);
        let possible = match kind {
            Kind::Blob => chunks::has_shape(length, count, root),
            _ => count <= chunks::MOST_CHUNKS,
        };
        if possible {
            return Ok(());
        }
        Err(Flaw(format!("it says that it has {length} bytes in {count} chunks, which is impossible")))
    }

    /// Every item, the first one first.
    pub(super) fn items(&self, mut visit: impl FnMut(Part<'a>)) -> Result<(), Flaw> {
        let (mut former, mut at) = (0, self.body[items::FIRST]);
        for number in 0..self.count() {
            let node =
                self.node(Offset(at)).map_err(|Broken| Flaw(format!("its item {number} at {at} is none")))?;
            let link = |which: usize| self.before.word(Offset(at + (which * WORD) as u64), &node.head[which]);
            if number > 0 && link(items::PREVIOUS) != former {
                return Err(Flaw(format!(
                    "its item {number} at {at} does not lead back to the one before it"
                )));
            }
            let next = link(items::NEXT);
            visit(Part::Piece(Piece {
                offset: node.offset,
                size: node.size(),
                words: node.bytes,
                length: node.length,
                first: Offset(at + (BYTES * WORD) as u64),
                before: self.before,
            }));
            former = std::mem::replace(&mut at, next);
        }
        let last = self.body[items::LAST];
        if self.count() > 0 && last != former || self.count() == 0 && (at, last) != (0, 0) {
            return Err(Flaw(format!("its last item is said to be at {last}, and is at {former}")));
        }
        Ok(())
    }

    fn node(&self, offset: Offset) -> Result<Node<'a>, Broken> {
        let head = self.region.heap_words(offset, BYTES).ok_or(Broken)?;
        let at = Offset(offset.0 + (items::LENGTH * WORD) as u64);
        let length = self.before.word(at, &head[items::LENGTH]);
        Node::of_length(self.region, offset, usize::try_from(length).map_err(|_| Broken)?)
    }

    /// Every chunk, and the page that leads to them if there is one.
    pub(super) fn chunks(&self, mut visit: impl FnMut(Part<'a>)) -> Result<(), Flaw> {
        let (root, count) = (self.body[chunks::ROOT], self.body[chunks::CHUNKS]);
        if root == 0 {
            return Ok(());
        }
        if count == 0 {
            return self.chunk(0, Offset(root)).map(visit);
        }
        visit(Part::Page(Offset(root)));
        for number in 0..count {
            let pointer = Page(root).place(self.region, number);
            let pointer = pointer
                .map_err(|Broken| Flaw("the page that leads to its chunks is not in the heap".to_owned()))?;
            visit(self.chunk(number, Offset(self.before.place(pointer)))?);
        }
        Ok(())
    }

    fn chunk(&self, number: u64, offset: Offset) -> Result<Part<'a>, Flaw> {
        // Of what is being deleted nobody knows how long it was.
        let length =
            if self.kind() == Some(Kind::Blob) { chunks::chunk_length(self.count(), number) } else { 0 };
        let words = self.region.heap_words(offset, length.div_ceil(WORD));
        let words = words.ok_or_else(|| Flaw(format!("its chunk {number} is not in the heap")))?;
        Ok(Part::Piece(Piece { offset, size: length, words, length, first: offset, before: self.before }))
    }
}
