//! Access logs.

use ripstop_model::snapshot::http::{AccessLog, Compare, LogFilter, LogFormat, LogSink};

use super::value::{any, fraction, header_match, strings};
use crate::pb::{accesslog, core, log_file, log_stream};

pub(super) fn access_log(log: &AccessLog) -> accesslog::AccessLog {
    let (name, config) = match &log.sink {
        LogSink::File(path) => (
            "envoy.access_loggers.file",
            any(&log_file::FileAccessLog {
                path: path.clone(),
                access_log_format: format(&log.format)
                    .map(log_file::file_access_log::AccessLogFormat::LogFormat),
            }),
        ),
        LogSink::Stdout => (
            "envoy.access_loggers.stdout",
            any(&log_stream::StdoutAccessLog {
                access_log_format: format(&log.format)
                    .map(log_stream::stdout_access_log::AccessLogFormat::LogFormat),
            }),
        ),
        LogSink::Stderr => (
            "envoy.access_loggers.stderr",
            any(&log_stream::StderrAccessLog {
                access_log_format: format(&log.format)
                    .map(log_stream::stderr_access_log::AccessLogFormat::LogFormat),
            }),
        ),
    };
    accesslog::AccessLog {
        name: name.to_owned(),
        filter: log.filter.as_ref().map(filter),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
    }
}

fn format(f: &LogFormat) -> Option<core::SubstitutionFormatString> {
    use core::substitution_format_string::Format;
    let format = match f {
        LogFormat::Default => return None,
        LogFormat::Text(text) => Format::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text.clone())),
            watched_directory: None,
        }),
        LogFormat::Json(fields) => {
            Format::JsonFormat(strings(fields.iter().map(|(key, value)| (key, value))))
        }
    };
    Some(core::SubstitutionFormatString {
        format: Some(format),
        ..Default::default()
    })
}

/// Envoy requires a runtime key; nothing sets this one.
const RUNTIME_KEY: &str = "ripstop.access_log";

fn filter(f: &LogFilter) -> accesslog::AccessLogFilter {
    use accesslog::access_log_filter::FilterSpecifier as Wire;
    let specifier = match f {
        LogFilter::Status { op, value } => Wire::StatusCodeFilter(accesslog::StatusCodeFilter {
            comparison: Some(comparison(*op, *value)),
        }),
        LogFilter::Duration { op, milliseconds } => {
            Wire::DurationFilter(accesslog::DurationFilter {
                comparison: Some(comparison(*op, *milliseconds)),
            })
        }
        LogFilter::NotHealthCheck => {
            Wire::NotHealthCheckFilter(accesslog::NotHealthCheckFilter::default())
        }
        LogFilter::ResponseFlags(flags) => {
            Wire::ResponseFlagFilter(accesslog::ResponseFlagFilter {
                flags: flags.clone(),
            })
        }
        LogFilter::Header(m) => Wire::HeaderFilter(accesslog::HeaderFilter {
            header: Some(header_match(m)),
        }),
        LogFilter::Sample(share) => Wire::RuntimeFilter(accesslog::RuntimeFilter {
            runtime_key: RUNTIME_KEY.to_owned(),
            percent_sampled: Some(fraction(*share)),
            use_independent_randomness: true,
        }),
        LogFilter::And(filters) => Wire::AndFilter(accesslog::AndFilter {
            filters: filters.iter().map(filter).collect(),
        }),
        LogFilter::Or(filters) => Wire::OrFilter(accesslog::OrFilter {
            filters: filters.iter().map(filter).collect(),
        }),
    };
    accesslog::AccessLogFilter {
        filter_specifier: Some(specifier),
    }
}

fn comparison(op: Compare, value: u32) -> accesslog::ComparisonFilter {
    use accesslog::comparison_filter::Op;
    let op = match op {
        Compare::Eq => Op::Eq,
        Compare::Ge => Op::Ge,
        Compare::Le => Op::Le,
        Compare::Ne => Op::Ne,
    };
    accesslog::ComparisonFilter {
        op: op.into(),
        value: Some(core::RuntimeUInt32 {
            default_value: value,
            runtime_key: RUNTIME_KEY.to_owned(),
        }),
    }
}
