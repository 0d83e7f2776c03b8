//! Plain tables for people, and quantities in words.

use std::time::SystemTime;

/// Prints rows in columns, the header first. The last column is not padded.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("   ").trim_end());
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// A number of bytes as people say it: `12.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    for (unit, size) in UNITS {
        if count >= size {
            let tenths = (u128::from(count) * 10 + u128::from(size) / 2) / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

/// A number of things.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// How long ago that was: `5 min ago`.
pub(crate) fn age(time: Option<SystemTime>) -> String {
    let Some(passed) = time.and_then(|time| time.elapsed().ok()) else { return "-".to_owned() };
    let seconds = passed.as_secs();
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    #[test]
    fn ages_in_words() {
        let ago = |seconds| super::age(SystemTime::now().checked_sub(Duration::from_secs(seconds)));
        assert_eq!(ago(5), "5 s ago");
        assert_eq!(ago(7_199), "119 min ago");
        assert_eq!(ago(7_200), "2 h ago");
        assert_eq!(ago(200_000), "2 d ago");
        assert_eq!(super::age(None), "-");
    }

    #[test]
    fn bytes_in_words() {
        assert_eq!(super::bytes(999), "999 B");
        assert_eq!(super::bytes(12_345_678), "12.3 MB");
        assert_eq!(super::bytes(u64::MAX), "18446744073.7 GB");
    }
}
