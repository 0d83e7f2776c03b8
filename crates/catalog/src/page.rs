//! Lists, a page at a time.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{CatalogError, Invalid, Violations};

/// What a marker's key begins with: the empty key has a marker, too.
const MARK: char = ':';

/// Which page of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageRequest {
    /// Where it begins: the page before said so.
    pub marker: Option<String>,
    /// How many items it may have, 1 to 10000; no page has more than 50.
    pub max_items: Option<i64>,
}

/// A page of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins, if there is one.
    pub next_marker: Option<String>,
}

impl PageRequest {
    /// Takes a page out of what `items` yields in the order of their keys, which stay the same while
    /// items come and go: what was listed once is not listed again, and nothing is left out.
    ///
    /// # Errors
    /// [`CatalogError::Violations`] for `max_items`, [`Invalid::Marker`].
    pub(crate) fn page<T>(
        &self,
        operation: &'static str,
        cap: usize,
        items: impl IntoIterator<Item = (String, T)>,
    ) -> Result<Page<T>, CatalogError> {
        let mut violations = Violations::new();
        violations.range("maxItems", self.max_items.unwrap_or(1), 1, 10_000);
        violations.check()?;
        let limit = self.max_items.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(cap).min(cap);
        let after = match self.marker.as_deref().filter(|marker| !marker.is_empty()) {
            None => None,
            Some(marker) => {
                let key = BASE64_URL_SAFE_NO_PAD.decode(marker).ok();
                let key = key.and_then(|key| String::from_utf8(key).ok());
                let key = key.and_then(|key| Some(key.strip_prefix(MARK)?.to_owned()));
                Some(key.ok_or_else(|| Invalid::Marker(operation, marker.to_owned()))?)
            }
        };
        let mut page = Page { items: Vec::new(), next_marker: None };
        let mut last = None;
        let rest =
            items.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        for (key, item) in rest {
            if page.items.len() == limit {
                page.next_marker =
                    last.map(|last: String| BASE64_URL_SAFE_NO_PAD.encode(format!("{MARK}{last}")));
                break;
            }
            page.items.push(item);
            last = Some(key);
        }
        Ok(page)
    }
}

impl<T> Page<T> {
    /// The same page of other items.
    #[must_use]
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next_marker: self.next_marker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str], request: &PageRequest) -> Page<String> {
        let items = keys.iter().map(|key| ((*key).to_owned(), (*key).to_owned()));
        request.page("ListFunctions", 3, items).unwrap()
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended_whatever_comes_and_goes() {
        let first = page(&["a", "b", "c", "d", "e"], &PageRequest::default());
        assert_eq!(first.items, ["a", "b", "c"]);
        let next = PageRequest { marker: first.next_marker, max_items: Some(10_000) };
        assert_eq!(page(&["a", "b", "bb", "d", "e"], &next).items, ["d", "e"]);
        assert_eq!(page(&["a", "b", "bb", "d", "e"], &next).next_marker, None);
        let three = page(&["a", "b", "c"], &PageRequest::default());
        assert_eq!(three.next_marker, None, "nothing follows");
        let first = page(&["", "a"], &PageRequest { max_items: Some(1), marker: None });
        let next = PageRequest { marker: first.next_marker, max_items: None };
        assert_eq!(page(&["", "a"], &next).items, ["a"]);
        let one = page(&["a", "b"], &PageRequest { max_items: Some(1), marker: None });
        assert_eq!((one.items.len(), one.next_marker.is_some()), (1, true));
    }

    #[test]
    fn nonsense_is_refused() {
        let page = |marker: Option<&str>, max_items| {
            let request = PageRequest { marker: marker.map(str::to_owned), max_items };
            request.page("ListFunctions", 3, [(String::new(), ())]).map(|_| ())
        };
        assert!(matches!(page(None, Some(0)), Err(CatalogError::Violations(_))));
        assert!(matches!(page(None, Some(10_001)), Err(CatalogError::Violations(_))));
        assert!(matches!(page(Some("%"), None), Err(CatalogError::Invalid(Invalid::Marker(..)))));
    }
}
