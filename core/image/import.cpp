// docker import: a tar stream becomes an image of one layer. Its diff id is known only when the stream has
// ended, so the layer is made without an expectation and the config is written from what came out.
#include "core/base/ids.h"
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/impl.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <boost/json.hpp>

namespace gantry {
namespace {

namespace json = boost::json;

std::vector<std::string> words(std::string_view text) {
    std::vector<std::string> out;
    std::string word;
    bool any = false;
    char quote = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
            word += text[++i];
            any = true;
        } else if (quote) {
            if (c == quote)
                quote = 0;
            else
                word += c;
        } else if (c == '"' || c == '\'') {
            quote = c;
            any = true;
        } else if (c == ' ' || c == '\t') {
            if (any) out.push_back(std::move(word));
            word.clear();
            any = false;
        } else {
            word += c;
            any = true;
        }
    }
    if (any) out.push_back(std::move(word));
    return out;
}

[[noreturn]] void bad_change(const std::string &change, const std::string &why) {
    throw Error(ErrorClass::kInvalidArgument, "apply change \"" + change + "\": " + why);
}

/// ["a","b"] or a shell line, which Docker wraps.
json::array command(const std::string &rest) {
    boost::system::error_code failed;
    if (auto value = json::parse(rest, failed); !failed && value.is_array()) {
        bool texts = true;
        for (const auto &item : value.get_array())
            texts = texts && item.is_string();
        if (texts) return value.get_array();
    }
    return {"/bin/sh", "-c", rest};
}

/// "A=b C=d" pairs, or the old form "A b".
std::vector<std::pair<std::string, std::string>> pairs(const std::string &change, const std::string &rest) {
    std::vector<std::pair<std::string, std::string>> out;
    const auto list = words(rest);
    if (list.empty()) bad_change(change, "needs a name and a value");
    if (list[0].find('=') == std::string::npos) {
        const size_t space = rest.find_first_of(" \t");
        if (space == std::string::npos) bad_change(change, "needs a name and a value");
        return {{rest.substr(0, space), rest.substr(rest.find_first_not_of(" \t", space))}};
    }
    for (const auto &word : list) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos || equals == 0)
            bad_change(change, "\"" + word + "\" is not name=value");
        out.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    }
    return out;
}

std::vector<std::string> list_or_words(const std::string &rest) {
    boost::system::error_code failed;
    std::vector<std::string> out;
    if (auto value = json::parse(rest, failed); !failed && value.is_array()) {
        for (const auto &item : value.get_array())
            if (item.is_string()) out.emplace_back(item.get_string());
        return out;
    }
    return words(rest);
}

void apply(json::object &config, const std::string &change) {
    const size_t start = change.find_first_not_of(" \t");
    const size_t space = start == std::string::npos ? start : change.find_first_of(" \t", start);
    if (space == std::string::npos) bad_change(change, "needs an instruction and its arguments");
    std::string verb = change.substr(start, space - start);
    for (char &c : verb)
        c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
    const size_t from = change.find_first_not_of(" \t", space);
    if (from == std::string::npos) bad_change(change, "needs arguments");
    std::string rest = change.substr(from);
    while (rest.ends_with(' ') || rest.ends_with('\n'))
        rest.pop_back();

    if (verb == "CMD") {
        config["Cmd"] = command(rest);
    } else if (verb == "ENTRYPOINT") {
        config["Entrypoint"] = command(rest);
    } else if (verb == "ENV") {
        auto &list = config["Env"];
        if (!list.is_array()) list = json::array();
        for (const auto &[name, value] : pairs(change, rest)) {
            auto &items = list.get_array();
            for (auto it = items.begin(); it != items.end();)
                it = std::string_view(it->get_string()).starts_with(name + "=") ? items.erase(it) : it + 1;
            items.push_back(json::string(name + "=" + value));
        }
    } else if (verb == "LABEL") {
        auto &map = config["Labels"];
        if (!map.is_object()) map = json::object();
        for (const auto &[name, value] : pairs(change, rest))
            map.get_object()[name] = value;
    } else if (verb == "EXPOSE") {
        auto &map = config["ExposedPorts"];
        if (!map.is_object()) map = json::object();
        for (auto port : words(rest)) {
            if (port.find('/') == std::string::npos) port += "/tcp";
            const int number = atoi(port.c_str());
            if (number < 1 || number > 65535) bad_change(change, "bad port " + port);
            map.get_object()[port] = json::object();
        }
    } else if (verb == "VOLUME") {
        auto &map = config["Volumes"];
        if (!map.is_object()) map = json::object();
        for (const auto &path : list_or_words(rest))
            map.get_object()[path] = json::object();
    } else if (verb == "WORKDIR") {
        config["WorkingDir"] = rest;
    } else if (verb == "USER") {
        config["User"] = rest;
    } else if (verb == "STOPSIGNAL") {
        config["StopSignal"] = rest;
    } else if (verb == "SHELL") {
        json::array list;
        for (const auto &word : list_or_words(rest))
            list.push_back(json::string(word));
        config["Shell"] = list;
    } else if (verb == "HEALTHCHECK") {
        if (rest == "NONE")
            config["Healthcheck"] = json::object{{"Test", json::array{"NONE"}}};
        else if (rest.starts_with("CMD "))
            config["Healthcheck"] = json::object{{"Test", json::array{"CMD-SHELL", rest.substr(4)}}};
        else
            bad_change(change, "options of HEALTHCHECK are not supported here");
    } else {
        bad_change(change, verb + " is not a valid change command");
    }
}

} // namespace

std::string make_import_config(const ImportConfig &from) {
    json::object config;
    for (const auto &change : from.changes)
        apply(config, change);
    const std::string created = rfc3339(from.created_ns);
    json::object document{
        {"architecture", from.platform.architecture},
        {"os", from.platform.os},
        {"created", created},
        {"config", config},
        {"rootfs", {{"type", "layers"}, {"diff_ids", json::array{from.diff_id}}}},
        {"history", json::array{json::object{{"created", created}, {"comment", from.message}}}}};
    if (!from.platform.variant.empty()) document["variant"] = from.platform.variant;
    if (!from.message.empty()) document["comment"] = from.message;
    return json::serialize(document);
}

std::string Images::import(const std::function<size_t(void *, size_t)> &tar,
                           const std::optional<ImageReference> &ref, const std::string &message,
                           const std::vector<std::string> &changes, const std::string &platform,
                           const CancelSource &cancel) {
    ImportConfig document;
    document.message = message.empty() ? "Imported from -" : message;
    document.created_ns = wall_ns();
    document.platform = parse_platform(platform);
    document.changes = changes;
    document.diff_id = "sha256:";
    make_import_config(document); // bad changes are refused before a byte is read

    const Impl::Work work(*impl_);
    auto making = impl_->layers.begin({}, "");
    CallScope scope(cancelled_by(cancel));
    making->unpack(
        [&](void *buffer, size_t size) {
            if (cancel.cancelled())
                throw Error(ErrorClass::kCancelled, "import image: cancelled by the caller");
            return tar(buffer, size);
        },
        scope);
    const Layer layer = making->finish("");
    document.diff_id = layer.diff_id;
    const std::string config = make_import_config(document);
    const std::string id = impl_->content.put(config, "application/vnd.oci.image.config.v1+json");

    Impl::Commit what;
    what.id = id;
    what.config = config;
    // The layer's compressed form does not exist; a push would make it. The manifest names the tar.
    const std::string manifest =
        make_manifest({"application/vnd.oci.image.config.v1+json", id, config.size()},
                      {{"application/vnd.oci.image.layer.v1.tar", layer.diff_id, layer.size}});
    what.manifest = impl_->content.put(manifest, "application/vnd.oci.image.manifest.v1+json");
    what.top_layer = layer.id;
    what.size = layer.size;
    what.created_ns = document.created_ns;
    what.ref = ref;
    if (what.ref && what.ref->tag.empty()) what.ref->tag = "latest";
    impl_->commit(what);
    impl_->publish("import", id, what.ref ? what.ref->familiar() : id);
    return id;
}

} // namespace gantry
