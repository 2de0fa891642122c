//! Access logs: file, stdout, stderr; format and filter.

use ripstop_model::format::{FormatError, Template};
use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::http::{AccessLog, Compare, LogFilter, LogFormat, LogSink};

use super::value::{fraction, header_match, strings};
use super::{Decoding, fields, is};
use crate::pb::{accesslog, core, google, log_file, log_stream};

pub(super) fn access_logs(cx: &mut Decoding, logs: Vec<accesslog::AccessLog>) -> Vec<AccessLog> {
    cx.each("access_log", logs, access_log)
}

fn access_log(cx: &mut Decoding, m: accesslog::AccessLog) -> Option<AccessLog> {
    fields!(cx, m => accesslog::AccessLog { filter, config_type } inert { name });
    let filter = match filter {
        None => None,
        // A log whose filter cannot be read is left out rather than written for everything.
        Some(m) => Some(cx.field("filter", |cx| log_filter(cx, m))?),
    };
    let Some(accesslog::access_log::ConfigType::TypedConfig(any)) = config_type else {
        cx.invalid("typed_config", "is required");
        return None;
    };
    cx.field("typed_config", |cx| {
        let (sink, format) = sink(cx, &any)?;
        readable(cx, &format)?;
        Some(AccessLog {
            sink,
            format,
            filter,
        })
    })
}

#[allow(deprecated)]
fn sink(cx: &mut Decoding, any: &google::Any) -> Option<(LogSink, LogFormat)> {
    use log_file::file_access_log::AccessLogFormat as File;
    use log_stream::stderr_access_log::AccessLogFormat as Stderr;
    use log_stream::stdout_access_log::AccessLogFormat as Stdout;
    if is::<log_file::FileAccessLog>(any) {
        let log_file::FileAccessLog {
            path,
            access_log_format,
        } = cx.unpack(any)?;
        let format = match access_log_format {
            None => LogFormat::Default,
            Some(File::Format(text)) => LogFormat::Text(text),
            Some(File::JsonFormat(m)) => {
                cx.field("json_format", |cx| LogFormat::Json(strings(cx, m)))
            }
            Some(File::TypedJsonFormat(m)) => {
                cx.field("typed_json_format", |cx| LogFormat::Json(strings(cx, m)))
            }
            Some(File::LogFormat(m)) => cx.field("log_format", |cx| format(cx, m))?,
        };
        let sink = match path.as_str() {
            "/dev/stdout" => LogSink::Stdout,
            "/dev/stderr" => LogSink::Stderr,
            _ => LogSink::File(path),
        };
        Some((sink, format))
    } else if is::<log_stream::StdoutAccessLog>(any) {
        let m: log_stream::StdoutAccessLog = cx.unpack(any)?;
        let format = m.access_log_format.map(|Stdout::LogFormat(m)| m);
        Some((LogSink::Stdout, optional_format(cx, format)?))
    } else if is::<log_stream::StderrAccessLog>(any) {
        let m: log_stream::StderrAccessLog = cx.unpack(any)?;
        let format = m.access_log_format.map(|Stderr::LogFormat(m)| m);
        Some((LogSink::Stderr, optional_format(cx, format)?))
    } else {
        cx.ignore_here(format!(
            "access logger {} is not supported; use file, stdout or stderr",
            any.type_url
        ));
        None
    }
}

/// A log whose format cannot be read is left out: its lines would not say what was asked for.
fn readable(cx: &mut Decoding, format: &LogFormat) -> Option<()> {
    let texts: Vec<&str> = match format {
        LogFormat::Default => Vec::new(),
        LogFormat::Text(text) => vec![text],
        LogFormat::Json(fields) => fields.iter().map(|(_, text)| text.as_str()).collect(),
    };
    for text in texts {
        if let Err(error) = Template::parse(text) {
            cx.field("log_format", |cx| match error {
                FormatError::Unknown(_) => cx.ignore_here(error.to_string()),
                FormatError::Unclosed(_) | FormatError::Argument { .. } => {
                    cx.invalid_here(error.to_string());
                }
            });
            return None;
        }
    }
    Some(())
}

fn optional_format(
    cx: &mut Decoding,
    m: Option<core::SubstitutionFormatString>,
) -> Option<LogFormat> {
    match m {
        None => Some(LogFormat::Default),
        Some(m) => cx.field("log_format", |cx| format(cx, m)),
    }
}

#[allow(deprecated)]
fn format(cx: &mut Decoding, m: core::SubstitutionFormatString) -> Option<LogFormat> {
    use core::data_source::Specifier;
    use core::substitution_format_string::Format;
    fields!(cx, m => core::SubstitutionFormatString { format }
        ignore { omit_empty_values, formatters }
        inert { content_type, json_format_options });
    match format {
        Some(Format::TextFormat(text)) => Some(LogFormat::Text(text)),
        Some(Format::TextFormatSource(core::DataSource {
            specifier: Some(Specifier::InlineString(text)),
            watched_directory: _,
        })) => Some(LogFormat::Text(text)),
        Some(Format::TextFormatSource(_)) => {
            cx.invalid("text_format_source", "only inline_string is supported");
            None
        }
        Some(Format::JsonFormat(m)) => {
            Some(cx.field("json_format", |cx| LogFormat::Json(strings(cx, m))))
        }
        None => Some(LogFormat::Default),
    }
}

fn log_filter(cx: &mut Decoding, m: accesslog::AccessLogFilter) -> Option<LogFilter> {
    use accesslog::access_log_filter::FilterSpecifier as Wire;
    match m.filter_specifier {
        Some(Wire::StatusCodeFilter(m)) => {
            let (op, value) = cx.field("status_code_filter", |cx| comparison(cx, m.comparison))?;
            Some(LogFilter::Status { op, value })
        }
        Some(Wire::DurationFilter(m)) => {
            let (op, milliseconds) =
                cx.field("duration_filter", |cx| comparison(cx, m.comparison))?;
            Some(LogFilter::Duration { op, milliseconds })
        }
        Some(Wire::NotHealthCheckFilter(_)) => Some(LogFilter::NotHealthCheck),
        Some(Wire::ResponseFlagFilter(m)) => Some(LogFilter::ResponseFlags(m.flags)),
        Some(Wire::HeaderFilter(m)) => cx
            .field("header_filter", |cx| {
                cx.required("header", m.header, header_match)
            })
            .map(LogFilter::Header),
        Some(Wire::RuntimeFilter(m)) => cx.field("runtime_filter", |cx| {
            fields!(cx, m => accesslog::RuntimeFilter { percent_sampled }
                inert { runtime_key, use_independent_randomness });
            let sampled = match percent_sampled {
                Some(m) => fraction(cx, m)?,
                // Without a runtime there is nothing that could switch it on.
                None => Fraction::NEVER,
            };
            Some(LogFilter::Sample(sampled))
        }),
        Some(Wire::AndFilter(m)) => {
            let length = m.filters.len();
            whole(cx.each("and_filter.filters", m.filters, log_filter), length).map(LogFilter::And)
        }
        Some(Wire::OrFilter(m)) => {
            let length = m.filters.len();
            whole(cx.each("or_filter.filters", m.filters, log_filter), length).map(LogFilter::Or)
        }
        Some(
            Wire::TraceableFilter(_)
            | Wire::GrpcStatusFilter(_)
            | Wire::ExtensionFilter(_)
            | Wire::MetadataFilter(_)
            | Wire::LogTypeFilter(_),
        ) => {
            cx.ignore_here("this kind of filter is not supported; remove it");
            None
        }
        None => {
            cx.invalid_here("is empty");
            None
        }
    }
}

fn whole(filters: Vec<LogFilter>, length: usize) -> Option<Vec<LogFilter>> {
    (filters.len() == length).then_some(filters)
}

fn comparison(cx: &mut Decoding, m: Option<accesslog::ComparisonFilter>) -> Option<(Compare, u32)> {
    use accesslog::comparison_filter::Op;
    cx.required("comparison", m, |cx, m| {
        let op = match cx.enumeration("op", m.op)? {
            Op::Eq => Compare::Eq,
            Op::Ge => Compare::Ge,
            Op::Le => Compare::Le,
            Op::Ne => Compare::Ne,
        };
        // The runtime key is required by Envoy and has nothing to look up here.
        let value = cx.required("value", m.value, |_, v| Some(v.default_value))?;
        Some((op, value))
    })
}
