// OCI image layouts in directories, to and from the tar streams that the daemon speaks.
#pragma once

#include "core/cli/http_client.h"

#include <functional>
#include <string>
#include <vector>

namespace gantry::cli {

/// Digests of the blobs in a layout; none when there is no such directory.
std::vector<std::string> layout_blobs(const std::string &directory);
/// Writes the layout in an OCI archive into a directory, which may be a layout already: blobs that are
/// there stay, and entries of the same name are replaced. Returns the first manifest's digest.
std::string receive_layout(HttpConnection &from, const std::string &directory);
/// The directory's layout as a tar through a pipe, whose reading end `use` gets.
void send_layout(const std::string &directory, const std::function<void(int)> &use);

} // namespace gantry::cli
