//! The files of sandboxes without processes: given to other ids, packed, unpacked.
//!
//! Everything in a writable layer was made by code that may be hostile. It is
//! looked at by descriptors below the layer's own folder, without following any
//! link and without leaving its file system; names, bytes and time are bounded.

mod attribute;
mod owner;
mod pack;
mod shift;
#[cfg(test)]
mod tests;
mod unpack;
mod walk;

pub(crate) use owner::Ids;
pub(crate) use pack::pack;
pub(crate) use shift::shift;
pub(crate) use unpack::unpack;
