// Streams between the daemon and this machine's files: what save, export, cp and image copy share.
#pragma once

#include "core/cli/http_client.h"
#include "core/layer/tree_tar.h"

#include <functional>
#include <string>

namespace gantry::cli {

/// Calls `write` with a new file beside `path`, which takes that name, with the umask's mode, only when it is
/// whole. Throws naming `path`; nothing is left of it then.
void write_whole_file(const std::string &path, const std::function<void(int fd)> &write);
/// The rest of an answer to a descriptor; `what` names it in errors.
void pour(HttpConnection &from, int to, const std::string &what);
/// As pour, to a path: a regular file appears whole, anything else that is there (/dev/null, a fifo) is
/// written to.
void pour_into_path(HttpConnection &from, const std::string &path);

/// `fill` writes a tar in a thread of its own; `use` gets the reading end of the pipe behind it. That `use`
/// ends early, because the daemon refused, is no error of `fill`. Throws what `fill` threw, else what `use`
/// threw.
void pipe_tar(const TreeTarOptions &options, const std::function<void(TreeTar &)> &fill,
              const std::function<void(int fd)> &use, uint64_t *bytes = nullptr);

} // namespace gantry::cli
