// What pushing shares with its tests: where an upload goes on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace gantry::oci {

/// A Location, absolute or relative, as seen from the URL that answered with it. Throws kUnavailable for what
/// is no http URL.
std::string resolve_location(const std::string &from, const std::string &location);
/// With "digest=" added to its query.
std::string with_digest(const std::string &location, const std::string &digest);
/// Bytes that an upload has, of its status' Range "0-99"; nullopt when the header says nothing usable.
std::optional<uint64_t> uploaded_bytes(const std::string &range);
/// The address in `<...>; rel="next"` of a Link header, or "".
std::string next_link(const std::string &link);

} // namespace gantry::oci
