//! What a peer did wrong → its name, for metrics and logs, and the error code of RFC 9113 that it is answered with.

use std::fmt;

/// An error code (RFC 9113 section 7). Unknown ones are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    pub const NO_ERROR: Code = Code(0);
    pub const PROTOCOL_ERROR: Code = Code(1);
    pub const INTERNAL_ERROR: Code = Code(2);
    pub const FLOW_CONTROL_ERROR: Code = Code(3);
    pub const SETTINGS_TIMEOUT: Code = Code(4);
    pub const STREAM_CLOSED: Code = Code(5);
    pub const FRAME_SIZE_ERROR: Code = Code(6);
    pub const REFUSED_STREAM: Code = Code(7);
    pub const CANCEL: Code = Code(8);
    pub const COMPRESSION_ERROR: Code = Code(9);
    pub const CONNECT_ERROR: Code = Code(10);
    pub const ENHANCE_YOUR_CALM: Code = Code(11);
    pub const INADEQUATE_SECURITY: Code = Code(12);
    pub const HTTP_1_1_REQUIRED: Code = Code(13);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Code::NO_ERROR => "NO_ERROR",
            Code::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Code::INTERNAL_ERROR => "INTERNAL_ERROR",
            Code::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Code::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
            Code::STREAM_CLOSED => "STREAM_CLOSED",
            Code::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Code::REFUSED_STREAM => "REFUSED_STREAM",
            Code::CANCEL => "CANCEL",
            Code::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Code::CONNECT_ERROR => "CONNECT_ERROR",
            Code::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Code::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            Code::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
            Code(other) => return write!(f, "error code {other}"),
        })
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A rule that a peer broke. Whether that ends a stream or the connection depends on where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("the connection does not begin with HTTP/2's preface")]
    Preface,
    #[error("the first frame is not SETTINGS")]
    FirstFrame,
    #[error("a frame is longer than SETTINGS_MAX_FRAME_SIZE allows")]
    FrameTooLong,
    #[error("a frame's length is not one that its type can have")]
    FrameLength,
    #[error("the padding is as long as its frame or longer")]
    Padding,
    #[error("a frame that belongs to a stream names none")]
    StreamMissing,
    #[error("a frame that belongs to the connection names a stream")]
    StreamNamed,
    #[error("a stream was opened with an identifier that this peer may not use, or not any more")]
    StreamId,
    #[error("a frame is for a stream that nobody opened")]
    IdleStream,
    #[error("a frame is for a stream that has ended")]
    ClosedStream,
    #[error("a stream depends on itself")]
    SelfDependency,
    #[error("PUSH_PROMISE came, which is not enabled")]
    Push,
    #[error("another frame came where a field block has to continue")]
    BlockInterrupted,
    #[error("CONTINUATION came though no field block was open")]
    Continuation,
    #[error("a setting has a value that it cannot have")]
    Setting,
    #[error("SETTINGS_INITIAL_WINDOW_SIZE is more than 2^31-1")]
    InitialWindow,
    #[error("a window was enlarged by nothing")]
    WindowZero,
    #[error("a window was enlarged beyond 2^31-1")]
    WindowOverflow,
    #[error("more DATA came than the window allows")]
    WindowExceeded,
    #[error("a field block cannot be decoded")]
    Compression,
    #[error("more streams are open than SETTINGS_MAX_CONCURRENT_STREAMS allows")]
    TooManyStreams,
    #[error("a header list is larger than SETTINGS_MAX_HEADER_LIST_SIZE allows")]
    HeaderList,
    #[error("a message is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("a field block is larger than any acceptable header list")]
    BlockFlood,
    #[error("a header list is many times as large as SETTINGS_MAX_HEADER_LIST_SIZE once decoded")]
    ListFlood,
    #[error("a field block is spread over too many CONTINUATION frames")]
    ContinuationFlood,
    #[error("too many requests were reset before they were answered")]
    ResetFlood,
    #[error("too many stream errors were provoked")]
    ErrorFlood,
    #[error("too many PING frames")]
    PingFlood,
    #[error("too many SETTINGS frames")]
    SettingsFlood,
    #[error("too many DATA frames without data")]
    EmptyDataFlood,
    #[error("too many PRIORITY frames")]
    PriorityFlood,
    #[error("too many WINDOW_UPDATE frames")]
    WindowFlood,
    #[error("too many frames of unknown types")]
    UnknownFlood,
    #[error("too many frames for streams that have ended")]
    StrayFlood,
    #[error("windows are opened by a few bytes at a time")]
    TinyWindows,
    #[error("too many answers wait for a peer that does not read them")]
    UnreadAnswers,
}

impl Violation {
    /// The code that RFC 9113 wants it answered with.
    pub fn code(self) -> Code {
        match self {
            Violation::Preface
            | Violation::FirstFrame
            | Violation::Padding
            | Violation::StreamMissing
            | Violation::StreamNamed
            | Violation::StreamId
            | Violation::IdleStream
            | Violation::SelfDependency
            | Violation::Push
            | Violation::BlockInterrupted
            | Violation::Continuation
            | Violation::Setting
            | Violation::WindowZero
            | Violation::Malformed(_) => Code::PROTOCOL_ERROR,
            Violation::FrameTooLong | Violation::FrameLength => Code::FRAME_SIZE_ERROR,
            Violation::ClosedStream => Code::STREAM_CLOSED,
            Violation::InitialWindow | Violation::WindowOverflow | Violation::WindowExceeded => {
                Code::FLOW_CONTROL_ERROR
            }
            Violation::Compression => Code::COMPRESSION_ERROR,
            Violation::TooManyStreams => Code::REFUSED_STREAM,
            Violation::HeaderList
            | Violation::BlockFlood
            | Violation::ListFlood
            | Violation::ContinuationFlood
            | Violation::ResetFlood
            | Violation::ErrorFlood
            | Violation::PingFlood
            | Violation::SettingsFlood
            | Violation::EmptyDataFlood
            | Violation::PriorityFlood
            | Violation::WindowFlood
            | Violation::UnknownFlood
            | Violation::StrayFlood
            | Violation::TinyWindows
            | Violation::UnreadAnswers => Code::ENHANCE_YOUR_CALM,
        }
    }

    /// Whether a limit of this side was passed rather than a rule of the protocol broken.
    pub fn is_flood(self) -> bool {
        self.code() == Code::ENHANCE_YOUR_CALM
    }

    /// A short name, steady over versions: a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Violation::Preface => "preface",
            Violation::FirstFrame => "first_frame",
            Violation::FrameTooLong => "frame_too_long",
            Violation::FrameLength => "frame_length",
            Violation::Padding => "padding",
            Violation::StreamMissing => "stream_missing",
            Violation::StreamNamed => "stream_named",
            Violation::StreamId => "stream_id",
            Violation::IdleStream => "idle_stream",
            Violation::ClosedStream => "closed_stream",
            Violation::SelfDependency => "self_dependency",
            Violation::Push => "push",
            Violation::BlockInterrupted => "block_interrupted",
            Violation::Continuation => "continuation",
            Violation::Setting => "setting",
            Violation::InitialWindow => "initial_window",
            Violation::WindowZero => "window_zero",
            Violation::WindowOverflow => "window_overflow",
            Violation::WindowExceeded => "window_exceeded",
            Violation::Compression => "compression",
            Violation::TooManyStreams => "too_many_streams",
            Violation::HeaderList => "header_list",
            Violation::Malformed(_) => "malformed",
            Violation::BlockFlood => "block_flood",
            Violation::ListFlood => "list_flood",
            Violation::ContinuationFlood => "continuation_flood",
            Violation::ResetFlood => "reset_flood",
            Violation::ErrorFlood => "error_flood",
            Violation::PingFlood => "ping_flood",
            Violation::SettingsFlood => "settings_flood",
            Violation::EmptyDataFlood => "empty_data_flood",
            Violation::PriorityFlood => "priority_flood",
            Violation::WindowFlood => "window_flood",
            Violation::UnknownFlood => "unknown_flood",
            Violation::StrayFlood => "stray_flood",
            Violation::TinyWindows => "tiny_windows",
            Violation::UnreadAnswers => "unread_answers",
        }
    }
}

/// What makes a message malformed (RFC 9113 section 8.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a field name is empty, has an upper-case letter or a byte that no name has")]
    Name,
    #[error("a field value has a forbidden byte")]
    Value,
    #[error("a field value begins or ends with whitespace")]
    PaddedValue,
    #[error("a pseudo-header field follows a regular one")]
    PseudoLate,
    #[error("a pseudo-header field is repeated")]
    PseudoRepeated,
    #[error("a pseudo-header field is not one of this kind of message")]
    PseudoForeign,
    #[error("a pseudo-header field is missing")]
    PseudoMissing,
    #[error("a pseudo-header field has a value that it cannot have")]
    PseudoValue,
    #[error("a field belongs to connections of HTTP/1")]
    ConnectionField,
    #[error("te is not \"trailers\"")]
    Te,
    #[error("content-length is no number or is repeated")]
    ContentLength,
    #[error("content-length is not the length of the content")]
    BodyLength,
    #[error("an interim response ends its stream")]
    InterimEnd,
    #[error("trailers do not end their stream")]
    TrailersOpen,
    #[error("DATA came before a final response")]
    BodyEarly,
}
