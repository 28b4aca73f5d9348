// Reading JSON that others wrote: manifests, configs, signatures. What is missing or of another type is "" or
// nullptr, so that chains of members read on; what must be there the caller asks for.
#pragma once

#include <boost/json/fwd.hpp>

#include <string>
#include <string_view>

namespace gantry {

/// Throws kInvalidArgument, "read WHAT: WHY".
[[noreturn]] void bad_document(const std::string &what, const std::string &why);
/// An object of at most `limit` bytes and `depth` levels. Throws as bad_document.
boost::json::object parse_document(std::string_view text, size_t limit, const std::string &what,
                                   size_t depth = 32);
std::string text_of(const boost::json::object *object, std::string_view key);
inline std::string text_of(const boost::json::object &object, std::string_view key) {
    return text_of(&object, key);
}
const boost::json::object *object_of(const boost::json::object *object, std::string_view key);
inline const boost::json::object *object_of(const boost::json::object &object, std::string_view key) {
    return object_of(&object, key);
}

} // namespace gantry
