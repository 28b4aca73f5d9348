#include "core/image/documents.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

namespace gantry {

namespace json = boost::json;

void bad_document(const std::string &what, const std::string &why) {
    throw Error(ErrorClass::kInvalidArgument, "read " + what + ": " + why);
}

json::object parse_document(std::string_view text, size_t limit, const std::string &what, size_t depth) {
    if (text.size() > limit) bad_document(what, "larger than " + std::to_string(limit) + " bytes");
    json::parse_options options;
    options.max_depth = depth;
    boost::system::error_code failed;
    auto value = json::parse(text, failed, {}, options);
    if (failed) bad_document(what, "not valid JSON (" + failed.message() + ")");
    if (!value.is_object()) bad_document(what, "not a JSON object");
    return std::move(value.get_object());
}

std::string text_of(const json::object *object, std::string_view key) {
    const auto *value = object ? object->if_contains(key) : nullptr;
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

const json::object *object_of(const json::object *object, std::string_view key) {
    const auto *value = object ? object->if_contains(key) : nullptr;
    return value ? value->if_object() : nullptr;
}

} // namespace gantry
