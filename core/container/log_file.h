// Reading json-file logs: {"log":"text\n","stream":"stdout","time":"2026-..."} one per line, in
// PATH.2, PATH.1, PATH (oldest first).
#pragma once

#include "core/container/containers.h"

#include <functional>
#include <string>

namespace gantry {

/// False when the line is not a record (torn by a crash).
bool parse_log_line(std::string_view line, LogRecord &record);

/// Reads until the end and, with query.follow, for as long as `ended` says false. `end_fd` becomes
/// readable when ended() may have changed. Returns when sink returns false or on cancel.
void read_log(const std::string &path, const LogQuery &query, const CancelSource &cancel, int end_fd,
              const std::function<bool()> &ended, const std::function<bool(const LogRecord &)> &sink);

/// Offset in `fd` at which its last `lines` lines begin; `found` is how many there are from there on.
int64_t tail_offset(int fd, int64_t lines, int64_t &found);

} // namespace gantry
