//! ClientHellos made to measure: valid ones for a name, and any split into records.

/// A TLS 1.3 hello for `sni`, offering `alpn`, as one record.
pub fn client_hello(sni: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    record(&message(sni, alpn, 0))
}

/// The same with `padding` bytes in a padding extension (RFC 7685).
pub fn padded_hello(sni: &str, padding: usize) -> Vec<u8> {
    records(&message(Some(sni), &[], padding), 16_384)
}

/// The handshake message.
pub fn message(sni: Option<&str>, alpn: &[&str], padding: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = sni {
        let entry = [&[0][..], &vector(2, name.as_bytes())].concat();
        extension(&mut extensions, 0, &vector(2, &entry));
    }
    extension(&mut extensions, 43, &vector(1, &[3, 4, 3, 3]));
    extension(&mut extensions, 13, &vector(2, &[4, 3, 8, 4]));
    extension(&mut extensions, 10, &vector(2, &[0, 29]));
    let share = [&[0, 29][..], &vector(2, &[7; 32])].concat();
    extension(&mut extensions, 51, &vector(2, &share));
    if !alpn.is_empty() {
        let names: Vec<u8> = alpn.iter().flat_map(|name| vector(1, name.as_bytes())).collect();
        extension(&mut extensions, 16, &vector(2, &names));
    }
    if padding > 0 {
        extension(&mut extensions, 21, &vec![0; padding]);
    }
    with_extensions(&extensions)
}

/// A handshake message with an extension block of one's own.
pub fn with_extensions(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[9; 32]);
    body.extend(vector(1, &[5; 32]));
    body.extend(vector(2, &[0x13, 1, 0x13, 2]));
    body.extend(vector(1, &[0]));
    body.extend(vector(2, extensions));
    [&[1][..], &vector(3, &body)].concat()
}

/// Appends an extension.
pub fn extension(out: &mut Vec<u8>, kind: u16, data: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend(vector(2, data));
}

/// Bytes with their length before them, in `width` bytes.
pub fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    [&length[length.len() - width..], bytes].concat()
}

/// One record around a handshake message.
pub fn record(message: &[u8]) -> Vec<u8> {
    records(message, message.len().max(1))
}

/// A handshake message in records of `size` bytes.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|chunk| [&[0x16, 3, 1][..], &vector(2, chunk)].concat()).collect()
}
