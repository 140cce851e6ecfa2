//! The DNA: names and layouts of all structs of the Blender that saved a file.

use std::{cell::RefCell, collections::HashMap};

use crate::{header::Layout, text_of_bytes};

/// Maximum number of pointers of a struct that are searched. A scene of Blender 5.0 with all its nested structs
/// has 120.
const POINTERS_MAX: usize = 4_096;

/// Maximum number of members of a struct and its nested structs that are searched for pointers.
const MEMBERS_MAX: usize = 100_000;

/// Members that point to a data block but do not use it: its origin, and what only the interface needs.
const IDLE_MEMBERS: [(&str, &str); 5] =
    [("ID", "lib"), ("ID", "newid"), ("ID", "orig_id"), ("Object", "iuser"), ("Image", "rr")];

/// Members on the way from a struct to a value: more than any value that is read here is deep.
const DEPTH_MAX: usize = 8;

/// The structs by name, as they are in the file. Only looked into for the few that are asked for.
pub(crate) struct Dna<'a> {
    layout: Layout,
    /// `*next`, `name[66]`, `(*draw)()`.
    names: Vec<&'a [u8]>,
    /// Name and size in bytes.
    types: Vec<(&'a [u8], usize)>,
    /// For each struct, by name: the type and the name of each member, four bytes together.
    structs: HashMap<&'a [u8], &'a [u8]>,
    /// For each struct, by name: its number, as the blocks' heads give it, and its size in bytes.
    numbers: HashMap<&'a [u8], (u32, usize)>,
    /// The names of the structs by number.
    by_number: Vec<&'a [u8]>,
    /// What was looked for before: large files have many structs of a kind.
    known: RefCell<HashMap<(&'static str, &'static str), Option<FieldLocation>>>,
}

/// Where a value lies in its struct's bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldLocation {
    layout: Layout,
    offset: usize,
    len_bytes: usize,
    signed: bool,
}

impl<'a> Dna<'a> {
    /// None when the bytes contradict themselves.
    pub(crate) fn parse(bytes: &'a [u8], layout: Layout) -> Option<Self> {
        let mut cursor = Cursor { bytes, at: 0, layout };
        cursor.expect(b"SDNA")?;
        cursor.expect(b"NAME")?;
        let names = cursor.strings()?;
        cursor.expect(b"TYPE")?;
        let type_names = cursor.strings()?;
        cursor.expect(b"TLEN")?;
        let types: Option<Vec<_>> =
            type_names.into_iter().map(|name| Some((name, cursor.short()?))).collect();
        let types = types?;
        cursor.expect(b"STRC")?;
        let count = cursor.count()?;
        let mut structs = HashMap::new();
        let mut numbers = HashMap::new();
        let mut by_number = Vec::new();
        for number in 0..count {
            let kind = cursor.short()?;
            let (name, len_bytes) = types.get(kind)?;
            let members = cursor.short()?;
            structs.insert(*name, cursor.slice(4 * members)?);
            numbers.entry(*name).or_insert((u32::try_from(number).ok()?, *len_bytes));
            by_number.push(*name);
        }
        let known = RefCell::default();
        Some(Self { layout, names, types, structs, numbers, by_number, known })
    }

    /// How numbers and addresses are written.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Which struct has this name, by the number that the blocks' heads give, and its size in bytes.
    pub(crate) fn number_of(&self, structure: &str) -> Option<(u32, usize)> {
        self.numbers.get(structure.as_bytes()).copied()
    }

    /// Returns the name of the struct with this number.
    pub(crate) fn name_of(&self, number: u32) -> Option<&'a [u8]> {
        self.by_number.get(usize::try_from(number).ok()?).copied()
    }

    /// Returns the size of a struct in bytes.
    pub(crate) fn len_bytes_of(&self, structure: &[u8]) -> Option<usize> {
        self.numbers.get(structure).map(|(_, len_bytes)| *len_bytes)
    }

    /// Returns the offsets in a struct of pointers to data blocks that it uses.
    pub(crate) fn id_pointers(&self, structure: &[u8]) -> Vec<usize> {
        let mut places = Vec::new();
        let mut left = MEMBERS_MAX;
        self.collect_id_pointers(structure, (0, 0), &mut left, &mut places);
        places
    }

    fn collect_id_pointers(
        &self,
        structure: &[u8],
        (base, depth): (usize, usize),
        left: &mut usize,
        places: &mut Vec<usize>,
    ) {
        let mut offset = base;
        for pair in self.structs.get(structure).into_iter().flat_map(|them| them.chunks_exact(4)) {
            let Some((kind, kind_bytes, name)) = self.member_of(pair) else { return };
            let item_bytes = if name.is_address { self.layout.address_bytes() } else { kind_bytes };
            let is_idle = IDLE_MEMBERS
                .iter()
                .any(|(of, member)| of.as_bytes() == structure && member.as_bytes() == name.word);
            let is_followed = !name.is_address && depth < DEPTH_MAX && item_bytes > 0;
            let items = if is_idle { 0 } else { name.items };
            for item in 0..items.min(POINTERS_MAX) {
                if places.len() >= POINTERS_MAX || *left == 0 {
                    return;
                }
                *left -= 1;
                let at = offset.saturating_add(item.saturating_mul(item_bytes));
                if name.is_address && self.is_id(kind) {
                    places.push(at);
                } else if is_followed && self.structs.contains_key(kind) {
                    let before = places.len();
                    self.collect_id_pointers(kind, (at, depth + 1), left, places);
                    if places.len() == before {
                        break;
                    }
                } else {
                    break;
                }
            }
            let Some(len_bytes) = item_bytes.checked_mul(name.items) else { return };
            let Some(next) = offset.checked_add(len_bytes) else { return };
            offset = next;
        }
    }

    /// Whether a pointer to this type may point to a data block.
    fn is_id(&self, kind: &[u8]) -> bool {
        if matches!(kind, b"ID" | b"void") {
            return true;
        }
        let first = self.structs.get(kind).and_then(|members| self.member_of(members.get(..4)?));
        first.is_some_and(|(kind, _, name)| kind == b"ID" && !name.is_address)
    }

    /// Returns the type, size and name of a member.
    fn member_of(&self, pair: &[u8]) -> Option<(&'a [u8], usize, Name<'a>)> {
        let number = |bytes| usize::try_from(self.layout.unsigned(bytes)).ok();
        let (kind, kind_bytes) = *self.types.get(number(pair.get(..2)?)?)?;
        Some((kind, kind_bytes, Name::parse(self.names.get(number(pair.get(2..4)?)?)?)))
    }

    /// Finds a value by its path of members, like `r.im_format.imtype`. None when this Blender had no such
    /// member.
    pub(crate) fn at(&self, structure: &'static str, path: &'static str) -> Option<FieldLocation> {
        *self
            .known
            .borrow_mut()
            .entry((structure, path))
            .or_insert_with(|| self.find(structure, path))
    }

    fn find(&self, structure: &str, path: &str) -> Option<FieldLocation> {
        let mut structure = structure.as_bytes();
        let mut place = None;
        for member in path.split('.').take(DEPTH_MAX) {
            let base = place.map_or(0, |place: FieldLocation| place.offset);
            let (kind, found) = self.member(structure, member.as_bytes())?;
            structure = kind;
            place = Some(FieldLocation { offset: base.checked_add(found.offset)?, ..found });
        }
        place
    }

    fn member(&self, structure: &[u8], wanted: &[u8]) -> Option<(&'a [u8], FieldLocation)> {
        let mut offset: usize = 0;
        for pair in self.structs.get(structure)?.chunks_exact(4) {
            let (kind, kind_bytes, name) = self.member_of(pair)?;
            let item_bytes = if name.is_address { self.layout.address_bytes() } else { kind_bytes };
            let len_bytes = item_bytes.checked_mul(name.items)?;
            if name.word == wanted {
                let place = FieldLocation {
                    layout: self.layout,
                    offset,
                    len_bytes,
                    signed: !name.is_address && !kind.starts_with(b"u"),
                };
                return Some((kind, place));
            }
            offset = offset.checked_add(len_bytes)?;
        }
        None
    }
}

impl FieldLocation {
    /// Where it begins, in bytes after its struct's beginning.
    pub(crate) fn offset(self) -> usize {
        self.offset
    }

    /// Its bytes, if the struct has them.
    pub(crate) fn slice(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(self.offset..self.offset.checked_add(self.len_bytes)?)
    }

    /// The number there, of any width, whatever its sign.
    pub(crate) fn unsigned(self, bytes: &[u8]) -> Option<u64> {
        let bytes = self.slice(bytes)?;
        (1..=8).contains(&bytes.len()).then(|| self.layout.unsigned(bytes))
    }

    /// The number there, if it fits.
    pub(crate) fn int(self, bytes: &[u8]) -> Option<i32> {
        let number = self.unsigned(bytes)?;
        let unused_bits = 64 - 8 * u32::try_from(self.len_bytes).ok()?;
        let number = if self.signed {
            number.cast_signed() << unused_bits >> unused_bits
        } else {
            number.try_into().ok()?
        };
        number.try_into().ok()
    }

    /// The floating-point number there.
    pub(crate) fn float(self, bytes: &[u8]) -> Option<f32> {
        let bits = (self.len_bytes == 4).then(|| self.unsigned(bytes))??;
        u32::try_from(bits).ok().map(f32::from_bits)
    }

    /// The text there, up to its end mark.
    pub(crate) fn text(self, bytes: &[u8]) -> Option<String> {
        self.slice(bytes).map(text)
    }
}

/// A text up to its end mark.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    let text = &bytes[..end.unwrap_or(bytes.len())];
    String::from_utf8_lossy(text).into_owned()
}

/// Decodes a path up to its terminating zero, keeping every byte.
pub(crate) fn path(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    text_of_bytes(&bytes[..end.unwrap_or(bytes.len())])
}

/// A member's name taken apart: `*mat[4][4]` is the word `mat`, of 16 addresses.
struct Name<'a> {
    word: &'a [u8],
    is_address: bool,
    items: usize,
}

impl<'a> Name<'a> {
    fn parse(name: &'a [u8]) -> Self {
        let is_address = matches!(name.first(), Some(b'*' | b'('));
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let start = name.iter().position(is_word).unwrap_or(name.len());
        let rest = &name[start..];
        let end = rest.iter().position(|byte| !is_word(byte));
        let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let items = rest
            .split(|&byte| byte == b'[')
            .skip(1)
            .filter_map(|part| {
                let digits = part.strip_suffix(b"]")?;
                std::str::from_utf8(digits).ok()?.parse().ok()
            })
            .fold(1, usize::saturating_mul);
        Self { word, is_address, items }
    }
}

/// Goes through the DNA's four tables, each of which begins at a multiple of four bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    layout: Layout,
}

impl<'a> Cursor<'a> {
    fn slice(&mut self, len_bytes: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len_bytes)?;
        let slice = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(slice)
    }

    fn expect(&mut self, mark: &[u8; 4]) -> Option<()> {
        self.at = self.at.next_multiple_of(4);
        (self.slice(4)? == mark).then_some(())
    }

    fn short(&mut self) -> Option<usize> {
        let bytes = self.slice(2)?;
        usize::try_from(self.layout.unsigned(bytes)).ok()
    }

    /// A number of things that have at least a byte each: more than there are bytes is not believed.
    fn count(&mut self) -> Option<usize> {
        let bytes = self.slice(4)?;
        let count = usize::try_from(self.layout.unsigned(bytes)).ok()?;
        (count <= self.bytes.len()).then_some(count)
    }

    fn strings(&mut self) -> Option<Vec<&'a [u8]>> {
        (0..self.count()?)
            .map(|_| {
                let rest = self.bytes.get(self.at..)?;
                let len_bytes = rest.iter().position(|&byte| byte == 0)?;
                self.at += len_bytes + 1;
                Some(&rest[..len_bytes])
            })
            .collect()
    }
}
