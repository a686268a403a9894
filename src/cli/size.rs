//! Sizes as they are typed: `512M`, `1.5G`; K, M, G and T are powers of 1024, a bare number is bytes.

/// Reads a size.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is no size; type for example 64K, 512M, 2G (powers of 1024)");
    let text_trimmed = text.trim();
    let digits = text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
    let shift = match text_trimmed[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(refuse()),
    };
    let number = &text_trimmed[..digits];
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(refuse);
    }
    let bytes = number.parse::<f64>().map_err(|_| refuse())? * f64::from(1_u32 << (shift / 2)).powi(2);
    match format!("{bytes:.0}").parse() {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(refuse()),
    }
}

/// Says a size as briefly as it can be read.
pub(crate) fn show(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        None => bytes.to_string(),
        Some((unit, shift)) if bytes >> shift >= 10 => format!("{}{unit}", bytes >> shift),
        Some((unit, shift)) => {
            format!("{}.{}{unit}", bytes >> shift, ((bytes >> (shift - 10)) & 1023) * 10 / 1024)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        let table =
            [("0", 0), ("17", 17), ("64K", 65536), ("512M", 512 << 20), ("1.5G", 3 << 29), ("2tib", 2 << 40)];
        for (text, bytes) in table {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "1X", "-1", "1.2.3K", "99999999999999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
