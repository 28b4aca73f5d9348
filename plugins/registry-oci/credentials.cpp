#include "credentials.h"

#include "small_file.h"

#include <boost/json.hpp>

#include <algorithm>

namespace gantry::oci {
namespace {

constexpr size_t kMaxAuthFile = 1 << 20;
constexpr size_t kMaxPassword = 64 << 10;

/// nullopt for what is no base64 (RFC 4648, padding optional).
std::optional<std::string> base64_decode(std::string_view in) {
    while (!in.empty() && in.back() == '=')
        in.remove_suffix(1);
    std::string out;
    uint32_t bits = 0;
    int have = 0;
    for (const char c : in) {
        int v = 0;
        if (c >= 'A' && c <= 'Z')
            v = c - 'A';
        else if (c >= 'a' && c <= 'z')
            v = c - 'a' + 26;
        else if (c >= '0' && c <= '9')
            v = c - '0' + 52;
        else if (c == '+' || c == '-')
            v = 62;
        else if (c == '/' || c == '_')
            v = 63;
        else
            return std::nullopt;
        bits = bits << 6 | static_cast<uint32_t>(v);
        if ((have += 6) >= 8) out += static_cast<char>(bits >> (have -= 8) & 255);
    }
    return out;
}

std::string text_of(const boost::json::object &object, const char *key) {
    const auto *value = object.if_contains(key);
    return value && value->is_string() ? std::string(value->get_string()) : "";
}

EndpointCredential entry_of(const boost::json::object &entry) {
    EndpointCredential who{text_of(entry, "username"), text_of(entry, "password"),
                           text_of(entry, "identitytoken"), text_of(entry, "registrytoken")};
    if (const std::string auth = text_of(entry, "auth"); !auth.empty()) {
        const auto plain = base64_decode(auth);
        const size_t colon = plain ? plain->find(':') : std::string::npos;
        if (colon != std::string::npos) {
            who.username = plain->substr(0, colon);
            who.password = plain->substr(colon + 1);
            while (!who.password.empty() && who.password.back() == '\0') // some clients pad with it
                who.password.pop_back();
        }
    }
    return who;
}

} // namespace

std::string normal_server(std::string server) {
    if (const size_t scheme = server.find("://"); scheme != std::string::npos) server.erase(0, scheme + 3);
    if (const size_t slash = server.find('/'); slash != std::string::npos) server.resize(slash);
    std::transform(server.begin(), server.end(), server.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    if (server == "index.docker.io" || server == "registry-1.docker.io" || server == "hub.docker.com")
        return "docker.io";
    return server;
}

std::optional<EndpointCredential> find_in_config_json(const std::string &text, const std::string &host) {
    boost::json::parse_options limits;
    limits.max_depth = 16;
    boost::system::error_code failed;
    const auto document = boost::json::parse(text, failed, {}, limits);
    if (failed || !document.is_object())
        throw Error(ErrorClass::kFailedPrecondition, "read auth_file: it is no JSON object");
    const auto *auths = document.get_object().if_contains("auths");
    if (!auths || !auths->is_object()) return std::nullopt;
    for (const auto &[key, value] : auths->get_object()) {
        std::string name(key);
        if (const size_t scheme = name.find("://"); scheme != std::string::npos) name.erase(0, scheme + 3);
        const size_t slash = name.find('/');
        std::string path = slash == std::string::npos ? "" : name.substr(slash);
        while (path.ends_with('/'))
            path.pop_back();
        if (!path.empty() && path != "/v1" && path != "/v2") continue; // for a part of that host alone
        if (normal_server(name) != normal_server(host) || !value.is_object()) continue;
        auto who = entry_of(value.get_object());
        if (!who.empty()) return who;
    }
    return std::nullopt;
}

EndpointCredential credential_for(const Endpoint &endpoint, const std::optional<Credential> &of_request,
                                  const std::string &auth_file) {
    if (!endpoint.mirror && of_request &&
        (of_request->server.empty() ||
         normal_server(of_request->server) == normal_server(endpoint.registry))) {
        EndpointCredential who{of_request->username, of_request->password, of_request->identity_token,
                               of_request->registry_token};
        if (!who.empty()) return who;
    }
    if (!endpoint.username.empty()) {
        std::string password = endpoint.password;
        if (!endpoint.password_file.empty()) {
            password = read_small_file(endpoint.password_file, kMaxPassword);
            while (password.ends_with('\n') || password.ends_with('\r'))
                password.pop_back();
        }
        return {endpoint.username, password, {}, {}};
    }
    if (auth_file.empty()) return {};
    const auto found = find_in_config_json(read_small_file(auth_file, kMaxAuthFile), host_of(endpoint.url));
    return found.value_or(EndpointCredential{});
}

} // namespace gantry::oci
