//! Numbers in tar headers and PAX records.

use costrel_ext4::Timestamp;

/// A header's number: octal digits between spaces and zero bytes, or big-endian with the highest
/// bit of the first byte set. An empty field is 0.
pub(crate) fn header_number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement of all bits but the highest.
        let sign = if first & 0x40 != 0 { -1_i64 } else { 0 };
        let start = if sign < 0 { i64::from(first) - 0x100 } else { i64::from(first & 0x3f) };
        return field[1..].iter().try_fold(start, |value, byte| {
            value.checked_mul(256).map(|value| value | i64::from(*byte))
        });
    }
    let text = field.split(|byte| *byte == 0).next()?.trim_ascii();
    text.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).map(|value| value + i64::from(digit - b'0')),
        _ => None,
    })
}

/// A decimal number without a sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A PAX time: decimal seconds with a fraction, maybe negative.
pub(crate) fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // What is finer than a nanosecond is cut.
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0')).chain(std::iter::repeat(0));
    let nanoseconds = digits.take(9).fold(0, |value, digit| value * 10 + digit);
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds },
        (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_header_numbers() {
        for (field, number) in [
            (&b"0000755\0"[..], Some(0o755)),
            (b"   755 \0", Some(0o755)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"12x\0", None),
            (b"\x80\0\0\0\0\x01\x11\x70", Some(70_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(header_number(field), number, "{field:?}");
        }
    }

    #[test]
    fn reads_times() {
        let time = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        assert_eq!(pax_time(b"12"), time(12, 0));
        assert_eq!(pax_time(b"12.5"), time(12, 500_000_000));
        assert_eq!(pax_time(b"12.0000000019"), time(12, 1));
        assert_eq!(pax_time(b"-1.25"), time(-2, 750_000_000));
        assert_eq!(pax_time(b"-3"), time(-3, 0));
        for text in ["", "-", ".5", "1.x", "x"] {
            assert_eq!(pax_time(text.as_bytes()), None, "{text}");
        }
    }
}
