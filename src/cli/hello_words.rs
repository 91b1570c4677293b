//! Names of numbers in a ClientHello, for people (IANA, "TLS Parameters" and "TLS ExtensionType Values", 2026). Cipher
//! suites have theirs from tls-parser; nothing here decides anything.

use crate::decide::hello::is_grease;

/// Name of an extension.
pub fn extension(kind: u16) -> &'static str {
    name(EXTENSIONS, kind)
}

/// Name of a group of a key share.
pub fn group(number: u16) -> &'static str {
    name(GROUPS, number)
}

/// Name of a signature scheme.
pub fn signature(number: u16) -> &'static str {
    name(SIGNATURES, number)
}

/// Name of a cipher suite.
pub fn cipher(number: u16) -> &'static str {
    match tls_parser::TlsCipherSuite::from_id(number) {
        Some(suite) => suite.name,
        None => name(&[(0x00ff, "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"), (0x5600, "TLS_FALLBACK_SCSV")], number),
    }
}

/// Name of an alert (RFC 8446 6).
pub fn alert(number: u8) -> &'static str {
    name(ALERTS, number.into())
}

/// Name of a record's content type.
pub fn record(kind: u8) -> &'static str {
    name(&[(20, "change_cipher_spec"), (21, "alert"), (22, "handshake"), (23, "application_data")], kind.into())
}

fn name(table: &[(u16, &'static str)], number: u16) -> &'static str {
    match table.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => name,
        None if is_grease(number) => "GREASE",
        None => "unknown",
    }
}

const EXTENSIONS: &[(u16, &str)] = &[
    (0, "server_name"),
    (1, "max_fragment_length"),
    (5, "status_request"),
    (9, "cert_type"),
    (10, "supported_groups"),
    (11, "ec_point_formats"),
    (12, "srp"),
    (13, "signature_algorithms"),
    (14, "use_srtp"),
    (15, "heartbeat"),
    (16, "application_layer_protocol_negotiation"),
    (17, "status_request_v2"),
    (18, "signed_certificate_timestamp"),
    (19, "client_certificate_type"),
    (20, "server_certificate_type"),
    (21, "padding"),
    (22, "encrypt_then_mac"),
    (23, "extended_main_secret"),
    (24, "token_binding"),
    (25, "cached_info"),
    (27, "compress_certificate"),
    (28, "record_size_limit"),
    (29, "pwd_protect"),
    (31, "password_salt"),
    (34, "delegated_credential"),
    (35, "session_ticket"),
    (41, "pre_shared_key"),
    (42, "early_data"),
    (43, "supported_versions"),
    (44, "cookie"),
    (45, "psk_key_exchange_modes"),
    (47, "certificate_authorities"),
    (48, "oid_filters"),
    (49, "post_handshake_auth"),
    (50, "signature_algorithms_cert"),
    (51, "key_share"),
    (52, "transparency_info"),
    (54, "connection_id"),
    (57, "quic_transport_parameters"),
    (58, "ticket_request"),
    (13_172, "next_protocol_negotiation"),
    (17_513, "application_settings_old"),
    (17_613, "application_settings"),
    (51_764, "trust_anchors"),
    (64_768, "ech_outer_extensions"),
    (65_037, "encrypted_client_hello"),
    (65_281, "renegotiation_info"),
];

const GROUPS: &[(u16, &str)] = &[
    (23, "secp256r1"),
    (24, "secp384r1"),
    (25, "secp521r1"),
    (29, "x25519"),
    (30, "x448"),
    (256, "ffdhe2048"),
    (257, "ffdhe3072"),
    (258, "ffdhe4096"),
    (259, "ffdhe6144"),
    (260, "ffdhe8192"),
    (512, "MLKEM512"),
    (513, "MLKEM768"),
    (514, "MLKEM1024"),
    (4587, "SecP256r1MLKEM768"),
    (4588, "X25519MLKEM768"),
    (4589, "SecP384r1MLKEM1024"),
    (25_497, "X25519Kyber768Draft00"),
];

const SIGNATURES: &[(u16, &str)] = &[
    (0x0201, "rsa_pkcs1_sha1"),
    (0x0202, "dsa_sha1"),
    (0x0203, "ecdsa_sha1"),
    (0x0301, "rsa_pkcs1_sha224"),
    (0x0302, "dsa_sha224"),
    (0x0303, "ecdsa_sha224"),
    (0x0401, "rsa_pkcs1_sha256"),
    (0x0402, "dsa_sha256"),
    (0x0403, "ecdsa_secp256r1_sha256"),
    (0x0501, "rsa_pkcs1_sha384"),
    (0x0502, "dsa_sha384"),
    (0x0503, "ecdsa_secp384r1_sha384"),
    (0x0601, "rsa_pkcs1_sha512"),
    (0x0602, "dsa_sha512"),
    (0x0603, "ecdsa_secp521r1_sha512"),
    (0x0804, "rsa_pss_rsae_sha256"),
    (0x0805, "rsa_pss_rsae_sha384"),
    (0x0806, "rsa_pss_rsae_sha512"),
    (0x0807, "ed25519"),
    (0x0808, "ed448"),
    (0x0809, "rsa_pss_pss_sha256"),
    (0x080a, "rsa_pss_pss_sha384"),
    (0x080b, "rsa_pss_pss_sha512"),
    (0x081a, "ecdsa_brainpoolP256r1tls13_sha256"),
    (0x081b, "ecdsa_brainpoolP384r1tls13_sha384"),
    (0x081c, "ecdsa_brainpoolP512r1tls13_sha512"),
    (0x0904, "mldsa44"),
    (0x0905, "mldsa65"),
    (0x0906, "mldsa87"),
];

const ALERTS: &[(u16, &str)] = &[
    (10, "unexpected_message"),
    (22, "record_overflow"),
    (47, "illegal_parameter"),
    (49, "access_denied"),
    (50, "decode_error"),
    (70, "protocol_version"),
    (80, "internal_error"),
    (112, "unrecognized_name"),
    (120, "no_application_protocol"),
];
