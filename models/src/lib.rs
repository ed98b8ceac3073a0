//! gpt-oss-20b, gpt-oss-120b and nano, compiled at build time

#![forbid(unsafe_code)]
