// References as the distribution project defines them (reference/regexp.go), without regular expressions:
// input is untrusted and the grammar is small. Normalisation ("nginx" is docker.io/library/nginx:latest)
// follows docker's splitDockerDomain.
#include "core/image/images.h"

#include <algorithm>

namespace gantry {
namespace {

constexpr size_t kMaxName = 255, kMaxTag = 128;

bool is_lower_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool is_alnum(char c) { return is_lower_alnum(c) || (c >= 'A' && c <= 'Z'); }
bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

[[noreturn]] void fail(const std::string &detail = {}) {
    throw Error(ErrorClass::kInvalidArgument,
                "invalid reference format" + (detail.empty() ? "" : ": " + detail));
}

/// [a-z0-9]+ ( ("." | "_" | "__" | "-"+) [a-z0-9]+ )*
bool is_path_component(std::string_view text) {
    size_t i = 0;
    auto word = [&] {
        const size_t from = i;
        while (i < text.size() && is_lower_alnum(text[i]))
            ++i;
        return i > from;
    };
    if (!word()) return false;
    while (i < text.size()) {
        const size_t from = i;
        const char c = text[i];
        if (c != '.' && c != '_' && c != '-') return false;
        while (i < text.size() && text[i] == c)
            ++i;
        const size_t length = i - from;
        if ((c == '.' && length > 1) || (c == '_' && length > 2)) return false;
        if (!word()) return false;
    }
    return true;
}

bool is_domain(std::string_view text) {
    std::string_view host = text, port;
    if (text.starts_with('[')) {
        const size_t end = text.find(']');
        if (end == std::string_view::npos || end < 3) return false;
        for (const char c : text.substr(1, end - 1))
            if (!is_hex(c) && !(c >= 'A' && c <= 'F') && c != ':') return false;
        host = {};
        if (end + 1 < text.size()) {
            if (text[end + 1] != ':') return false;
            port = text.substr(end + 2);
            if (port.empty()) return false;
        }
    } else {
        const size_t colon = text.find(':');
        if (colon != std::string_view::npos) {
            host = text.substr(0, colon);
            port = text.substr(colon + 1);
            if (port.empty()) return false;
        }
        if (host.empty()) return false;
        for (size_t from = 0; from <= host.size();) {
            const size_t dot = std::min(host.find('.', from), host.size());
            const std::string_view label = host.substr(from, dot - from);
            if (label.empty() || label.front() == '-' || label.back() == '-') return false;
            for (const char c : label)
                if (!is_alnum(c) && c != '-') return false;
            from = dot + 1;
        }
    }
    if (port.size() > 5) return false;
    return std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_tag(std::string_view tag) {
    if (tag.empty() || tag.size() > kMaxTag || tag.front() == '.' || tag.front() == '-') return false;
    return std::all_of(tag.begin(), tag.end(),
                       [](char c) { return is_alnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool is_digest(std::string_view digest) {
    const bool sha256 = digest.starts_with("sha256:") && digest.size() == 7 + 64;
    const bool sha512 = digest.starts_with("sha512:") && digest.size() == 7 + 128;
    if (!sha256 && !sha512) return false;
    return std::all_of(digest.begin() + 7, digest.end(), is_hex);
}

} // namespace

ImageReference parse_reference(const std::string &text, const std::string &default_registry,
                               bool default_tag) {
    ImageReference out;
    std::string name = text;
    if (const size_t at = name.find('@'); at != std::string::npos) {
        out.digest = name.substr(at + 1);
        name.resize(at);
        if (!is_digest(out.digest)) fail();
    }
    if (const size_t colon = name.rfind(':');
        colon != std::string::npos && name.find('/', colon) == std::string::npos && !name.ends_with(']')) {
        out.tag = name.substr(colon + 1);
        name.resize(colon);
        if (!is_tag(out.tag)) fail();
    }
    if (name.empty()) fail();
    if (name.size() == 64 && std::all_of(name.begin(), name.end(), is_hex))
        throw Error(ErrorClass::kInvalidArgument,
                    "invalid repository name (" + name + "), cannot specify 64-byte hexadecimal strings");

    const size_t slash = name.find('/');
    const std::string head = name.substr(0, slash == std::string::npos ? 0 : slash);
    const bool has_upper = std::any_of(head.begin(), head.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    if (head.find_first_of(".:") != std::string::npos || head == "localhost" || has_upper) {
        out.registry = head;
        out.repository = name.substr(slash + 1);
        if (!is_domain(head)) fail();
    } else {
        out.registry = default_registry;
        out.repository = name;
    }
    if (out.registry == "index.docker.io") out.registry = "docker.io";
    if (std::any_of(out.repository.begin(), out.repository.end(),
                    [](char c) { return c >= 'A' && c <= 'Z'; }))
        fail("repository name must be lowercase");
    for (size_t from = 0; from <= out.repository.size();) {
        const size_t end = std::min(out.repository.find('/', from), out.repository.size());
        if (!is_path_component(std::string_view(out.repository).substr(from, end - from))) fail();
        from = end + 1;
    }
    if (out.registry == "docker.io" && out.repository.find('/') == std::string::npos)
        out.repository = "library/" + out.repository;
    if (out.registry.size() + 1 + out.repository.size() > kMaxName)
        throw Error(ErrorClass::kInvalidArgument, "repository name must not be more than 255 characters");
    if (default_tag && out.tag.empty() && out.digest.empty()) out.tag = "latest";
    return out;
}

ImageReference parse_reference(const std::string &text, const RegistryConfig &config, bool default_tag) {
    size_t end = std::min(text.find('@'), text.size());
    if (const size_t colon = text.substr(0, end).rfind(':');
        colon != std::string::npos && text.find('/', colon) >= end)
        end = colon;
    const std::string name = text.substr(0, end), rest = text.substr(end);
    const size_t slash = name.find('/');
    const std::string head = slash == std::string::npos ? "" : name.substr(0, slash);
    const bool has_registry =
        head.find_first_of(".:") != std::string::npos || head == "localhost" ||
        std::any_of(head.begin(), head.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    if (!has_registry)
        for (const auto &[key, value] : config.short_names) { // exact names, then the longest path first
            const std::string_view path = std::string_view(key).substr(0, key.size() - 1);
            if (key == name) return parse_reference(value + rest, config.default_registry, default_tag);
            if (key.ends_with("/*") && name.starts_with(path))
                return parse_reference(value.substr(0, value.size() - 1) + name.substr(path.size()) + rest,
                                       config.default_registry, default_tag);
        }
    return parse_reference(text, config.default_registry, default_tag);
}

std::string ImageReference::familiar_name() const {
    if (registry != "docker.io") return registry + "/" + repository;
    if (repository.starts_with("library/") && repository.find('/', 8) == std::string::npos)
        return repository.substr(8);
    return repository;
}

std::string ImageReference::familiar() const {
    return familiar_name() + (tag.empty() ? "" : ":" + tag) + (digest.empty() ? "" : "@" + digest);
}

std::string ImageReference::full() const {
    return registry + "/" + repository + (tag.empty() ? "" : ":" + tag) +
           (digest.empty() ? "" : "@" + digest);
}

} // namespace gantry
