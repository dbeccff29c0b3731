//! Why a head or a chunked body is refused: one table of code, status and sentence.
//!
//! Faults are small and `Copy`; the request path never builds a string.
//! Deliberately absent: recovery. After a fault the bytes that follow cannot be trusted to be
//! the next message, so the connection has to be closed.

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.why())]
#[expect(missing_docs, reason = "the table below says what each one means")]
pub enum HeadError {
    TlsOnPlainPort,
    LeadingBlankLines,
    MethodMalformed,
    MethodUnsupported,
    RequestLineMalformed,
    StatusLineMalformed,
    TargetMalformed,
    TargetTooLong,
    VersionMalformed,
    VersionUnsupported,
    BareCr,
    BareLf,
    FoldedLine,
    FieldNameMalformed,
    SpaceBeforeColon,
    FieldValueMalformed,
    HeadTooLarge,
    TooManyFields,
    HostMissing,
    HostDuplicate,
    HostMalformed,
    HostMismatch,
    LengthMalformed,
    LengthDuplicate,
    LengthTooLarge,
    LengthWithCoding,
    CodingDuplicate,
    CodingMalformed,
    CodingNotChunkedLast,
    CodingUnsupported,
    CodingBeforeHttp11,
    BodyOnBodyless,
    ConnectionMalformed,
    ExpectationUnknown,
    MaxForwardsMalformed,
    UpgradeUnasked,
    UpgradeMalformed,
}

impl HeadError {
    /// Stable reason code, HTTP status and sentence of every fault. The statuses are those a
    /// client is answered; a response refused with any of them is a 502 for the client.
    const fn verdict(self) -> (&'static str, u16, &'static str) {
        const MALFORMED: &str = "head_malformed";
        const FRAMING: &str = "framing_ambiguous";
        const HOST: &str = "host_invalid";
        match self {
            Self::TlsOnPlainPort => (MALFORMED, 400, "this port speaks plain HTTP, not TLS"),
            Self::LeadingBlankLines => (MALFORMED, 400, "too many blank lines before the request"),
            Self::MethodMalformed => (MALFORMED, 400, "the method is not a token"),
            Self::MethodUnsupported => {
                ("method_unsupported", 501, "this method is not served here")
            }
            Self::RequestLineMalformed => {
                (MALFORMED, 400, "the request line is not `method SP target SP version CR LF`")
            }
            Self::StatusLineMalformed => {
                (MALFORMED, 502, "the status line is not `version SP status SP reason CR LF`")
            }
            Self::TargetMalformed => (MALFORMED, 400, "the request target is malformed"),
            Self::TargetTooLong => ("target_too_long", 414, "the request target is too long"),
            Self::VersionMalformed => {
                (MALFORMED, 400, "the version is not `HTTP/` digit `.` digit")
            }
            Self::VersionUnsupported => {
                ("version_unsupported", 505, "this version is neither HTTP/1.1 nor HTTP/1.0")
            }
            Self::BareCr => (MALFORMED, 400, "a CR without LF"),
            Self::BareLf => (MALFORMED, 400, "a line that ends in LF without CR"),
            Self::FoldedLine => (MALFORMED, 400, "a field line starts with a space or tab"),
            Self::FieldNameMalformed => (MALFORMED, 400, "a field name is not a token"),
            Self::SpaceBeforeColon => (MALFORMED, 400, "a space between field name and colon"),
            Self::FieldValueMalformed => (MALFORMED, 400, "a control byte in a field value"),
            Self::HeadTooLarge => ("head_too_large", 431, "the head is too large"),
            Self::TooManyFields => ("head_too_large", 431, "the head has too many fields"),
            Self::HostMissing => (HOST, 400, "the Host field is missing or empty"),
            Self::HostDuplicate => (HOST, 400, "more than one Host field"),
            Self::HostMalformed => (HOST, 400, "the host is not a name or address with port"),
            Self::HostMismatch => (HOST, 400, "the Host field and the request target disagree"),
            Self::LengthMalformed => (FRAMING, 400, "Content-Length is not a decimal number"),
            Self::LengthDuplicate => (FRAMING, 400, "more than one Content-Length"),
            Self::LengthTooLarge => ("body_too_large", 413, "Content-Length is beyond any limit"),
            Self::LengthWithCoding => {
                (FRAMING, 400, "Content-Length together with Transfer-Encoding")
            }
            Self::CodingDuplicate => (FRAMING, 400, "more than one Transfer-Encoding"),
            Self::CodingMalformed => (FRAMING, 400, "Transfer-Encoding is malformed"),
            Self::CodingNotChunkedLast => {
                (FRAMING, 400, "Transfer-Encoding does not end in `chunked`, once")
            }
            Self::CodingUnsupported => {
                ("coding_unsupported", 501, "only the transfer coding `chunked` is understood")
            }
            Self::CodingBeforeHttp11 => (FRAMING, 400, "Transfer-Encoding in HTTP/1.0"),
            Self::BodyOnBodyless => (FRAMING, 400, "a body where none can be"),
            Self::ConnectionMalformed => (MALFORMED, 400, "Connection is not a list of tokens"),
            Self::ExpectationUnknown => {
                ("expectation_failed", 417, "only the expectation `100-continue` is understood")
            }
            Self::MaxForwardsMalformed => (MALFORMED, 400, "Max-Forwards is not a number"),
            Self::UpgradeUnasked => (MALFORMED, 502, "status 101 that nobody asked for"),
            Self::UpgradeMalformed => (MALFORMED, 502, "status 101 without a new protocol"),
        }
    }

    /// Stable code for logs, metrics and the `Apcera-Error` field.
    pub const fn code(self) -> &'static str {
        self.verdict().0
    }

    /// Status to answer a client whose request was refused. For a refused response it is
    /// always 502, whatever this says.
    pub const fn status(self) -> u16 {
        self.verdict().1
    }

    /// What is wrong, as a sentence without a full stop.
    pub const fn why(self) -> &'static str {
        self.verdict().2
    }
}

/// Why a chunked body was refused. The connection it came on cannot be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ChunkError {
    /// Something else than hexadecimal digits, or too many of them.
    #[error("the chunk size is not a hexadecimal number of at most 16 digits")]
    SizeMalformed,
    /// The size does not fit, or the body as a whole does not.
    #[error("the chunk size is beyond any limit")]
    SizeTooLarge,
    /// A line that does not end in CR LF.
    #[error("a line of the chunked body does not end in CR LF")]
    LineEndMalformed,
    /// The grammar of RFC 9112 7.1.1 is violated.
    #[error("a chunk extension is malformed")]
    ExtensionMalformed,
    /// More extension bytes than [`crate::CHUNK_EXTENSION_BYTES_MAX`] in a body.
    #[error("the chunk extensions are too large")]
    ExtensionTooLarge,
    /// Chunk data longer than announced.
    #[error("chunk data is not followed by CR LF")]
    DataEndMalformed,
    /// A trailer line outside the field grammar.
    #[error("a trailer field is malformed")]
    TrailerMalformed,
    /// More trailer bytes than [`crate::TRAILER_BYTES_MAX`].
    #[error("the trailer section is too large")]
    TrailerTooLarge,
}

impl ChunkError {
    /// Stable code for logs, metrics and the `Apcera-Error` field.
    pub const fn code(self) -> &'static str {
        match self {
            Self::TrailerTooLarge | Self::ExtensionTooLarge => "body_framing_too_large",
            Self::SizeTooLarge => "body_too_large",
            _ => "body_malformed",
        }
    }

    /// Status to answer a client whose body was refused before its answer began.
    pub const fn status(self) -> u16 {
        match self {
            Self::TrailerTooLarge => 431,
            Self::SizeTooLarge => 413,
            _ => 400,
        }
    }
}
