// The SDK's owning descriptor and the few syscalls around it that everybody needs.
#pragma once

#include <gantry/fd.hpp>

#include <string>
#include <string_view>

namespace gantry {

/// Writes all bytes, over EINTR and short writes. Throws Error("write <what>: ...").
void write_all(int fd, std::string_view bytes, std::string_view what);
/// Reads to the end of file, at most `limit` bytes; more is Error(kInvalidArgument).
std::string read_all(int fd, size_t limit, std::string_view what);

} // namespace gantry
