//! Extended attributes of a writable layer: which belong to it, and the ids in them.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr},
    io::Errno,
};

/// What the kernel itself allows for the names, and for a value.
const BYTES_MAX: usize = 64 << 10;
/// The words of overlayfs that belong to what a layer holds; only root on the host
/// can have set them.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.opaque", b"trusted.overlay.redirect"];
/// Access control lists, which name users and groups.
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// A list begins with its version, then has entries of tag, permissions and id.
const LIST_HEADER_BYTES: usize = 4;
const LIST_ENTRY_BYTES: usize = 8;
/// Tags of entries that name a user or a group.
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;

/// Whether an attribute is kept. `security.` ones cannot be set inside.
pub(super) fn belongs(name: &[u8]) -> bool {
    name.starts_with(b"user.") || OVERLAY.contains(&name) || LISTS.contains(&name)
}

/// The attributes of an open file or folder that are kept, the ids in them
/// changed by `id`.
pub(super) fn read(
    file: impl AsFd,
    id: impl Fn(u32) -> u32,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut buffer = vec![0; BYTES_MAX];
    let length = match flistxattr(&file, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let names: Vec<Vec<u8>> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| belongs(name))
        .map(<[u8]>::to_vec)
        .collect();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let length = fgetxattr(&file, name.as_slice(), &mut buffer[..])?;
        let mut value = buffer[..length].to_vec();
        change_ids(&name, &mut value, &id);
        found.push((name, value));
    }
    Ok(found)
}

/// Sets an attribute, the ids in it changed by `id`.
pub(super) fn write(
    file: impl AsFd,
    name: &[u8],
    value: &[u8],
    id: impl Fn(u32) -> u32,
) -> io::Result<()> {
    let mut value = value.to_vec();
    change_ids(name, &mut value, &id);
    Ok(fsetxattr(file, name, &value, XattrFlags::empty())?)
}

/// Changes the ids in an access control list; all else stays.
fn change_ids(name: &[u8], value: &mut [u8], id: &impl Fn(u32) -> u32) {
    if !LISTS.contains(&name) || value.len() < LIST_HEADER_BYTES {
        return;
    }
    let (entries, _) = value[LIST_HEADER_BYTES..].as_chunks_mut::<LIST_ENTRY_BYTES>();
    for [tag_low, tag_high, _, _, old @ ..] in entries {
        let tag = u16::from_le_bytes([*tag_low, *tag_high]);
        if tag == TAG_USER || tag == TAG_GROUP {
            *old = id(u32::from_le_bytes(*old)).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_named_users_and_groups_of_a_list_change() {
        let mut list = vec![2, 0, 0, 0];
        for (tag, id) in [
            (1u16, u32::MAX),
            (TAG_USER, 1000),
            (4, u32::MAX),
            (TAG_GROUP, 7),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend([6, 0]);
            list.extend(id.to_le_bytes());
        }
        let before = list.clone();
        change_ids(b"user.list", &mut list, &|id| id + 1);
        assert_eq!(list, before);
        change_ids(LISTS[0], &mut list, &|id| id + 1);
        let ids: Vec<u32> = list[LIST_HEADER_BYTES..]
            .chunks(LIST_ENTRY_BYTES)
            .map(|entry| u32::from_le_bytes(entry[4..].try_into().unwrap()))
            .collect();
        assert_eq!(ids, [u32::MAX, 1001, u32::MAX, 8]);
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic(mut value in prop::collection::vec(any::<u8>(), 0..64)) {
            let length = value.len();
            change_ids(LISTS[1], &mut value, &|id| !id);
            prop_assert_eq!(value.len(), length);
        }
    }
}
