//! Numbered places: a number names the same thing for as long as it is there.

/// A growing array with holes.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts a value into a free place. `None` when all numbers are in use.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            self.places[number as usize] = Some(value);
            return Some(number);
        }
        let number = u32::try_from(self.places.len()).ok()?;
        self.places.push(Some(value));
        Some(number)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.places.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(value)
    }

    /// The number after the last place.
    pub(super) fn end(&self) -> u32 {
        self.places.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_only_after_its_removal() {
        let mut slots = Slots::default();
        assert_eq!((slots.insert('a'), slots.insert('b')), (Some(0), Some(1)));
        assert_eq!(slots.remove(0), Some('a'));
        assert_eq!(slots.remove(0), None);
        assert_eq!(slots.insert('c'), Some(0));
        assert_eq!(slots.insert('d'), Some(2));
        let all = (0..slots.end()).filter_map(|number| slots.get(number));
        assert_eq!(all.collect::<String>(), "cbd");
    }
}
