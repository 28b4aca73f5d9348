// config.json is shared with other programs: it is read anew for each command, and written whole, by rename,
// with everything in it that is not ours.
#include "core/cli/registry_auth.h"

#include "core/base/fd.h"
#include "core/cli/command.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

constexpr size_t kMaxConfig = 4 << 20;
const char *const kHubServer = "https://index.docker.io/v1/";
const char *const kTokenUser = "<token>"; // a helper's secret that is an identity token

std::string environment(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

std::string config_folder() {
    if (auto folder = environment("GANTRY_CONFIG_DIR"); !folder.empty()) return folder;
    if (auto folder = environment("DOCKER_CONFIG"); !folder.empty()) return folder;
    std::string home = environment("HOME");
    return (home.empty() ? "/root" : home) + "/.docker";
}

std::string host_part(std::string server) {
    if (const size_t scheme = server.find("://"); scheme != std::string::npos) server.erase(0, scheme + 3);
    return server.substr(0, server.find('/'));
}

/// As Docker writes it: indented with tabs.
void pretty(const json::value &value, std::string &out, int depth) {
    const std::string indent(static_cast<size_t>(depth) + 1, '\t');
    auto list = [&](char open, char close, const auto &items, auto &&item) {
        out += open;
        bool first = true;
        for (const auto &element : items) {
            out += first ? "\n" : ",\n";
            out += indent;
            item(element);
            first = false;
        }
        if (!first) out += "\n" + indent.substr(1);
        out += close;
    };
    if (value.is_object())
        list('{', '}', value.get_object(), [&](const auto &pair) {
            out += json::serialize(json::string(pair.key())) + ": ";
            pretty(pair.value(), out, depth + 1);
        });
    else if (value.is_array())
        list('[', ']', value.get_array(),
             [&](const json::value &element) { pretty(element, out, depth + 1); });
    else
        out += json::serialize(value);
}

json::object &object_in(json::object &parent, const char *key) {
    json::value &value = parent[key];
    if (!value.is_object()) value = json::object();
    return value.get_object();
}

} // namespace

std::string encode_base64(std::string_view in, bool url_alphabet) {
    std::string set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (url_alphabet) set[62] = '-', set[63] = '_';
    std::string out;
    for (size_t i = 0; i < in.size(); i += 3) {
        uint32_t v = static_cast<uint32_t>(static_cast<unsigned char>(in[i])) << 16;
        if (i + 1 < in.size()) v |= static_cast<uint32_t>(static_cast<unsigned char>(in[i + 1])) << 8;
        if (i + 2 < in.size()) v |= static_cast<unsigned char>(in[i + 2]);
        out += set[v >> 18 & 63];
        out += set[v >> 12 & 63];
        out += i + 1 < in.size() ? set[v >> 6 & 63] : '=';
        out += i + 2 < in.size() ? set[v & 63] : '=';
    }
    return out;
}

std::string decode_base64(std::string_view text) {
    std::string out;
    uint32_t bits = 0;
    int count = 0;
    for (const char c : text) {
        uint32_t v = 0;
        if (c >= 'A' && c <= 'Z')
            v = static_cast<uint32_t>(c - 'A');
        else if (c >= 'a' && c <= 'z')
            v = static_cast<uint32_t>(c - 'a') + 26;
        else if (c >= '0' && c <= '9')
            v = static_cast<uint32_t>(c - '0') + 52;
        else if (c == '+' || c == '-')
            v = 62;
        else if (c == '/' || c == '_')
            v = 63;
        else if (c == '=')
            break;
        else
            return {};
        bits = bits << 6 | v;
        if ((count += 6) >= 8) {
            count -= 8;
            out += static_cast<char>(bits >> count & 0xff);
        }
    }
    return out;
}

std::string login_server(const std::string &registry) {
    const std::string host = host_part(registry);
    if (host.empty() || host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io")
        return kHubServer;
    return host;
}

std::string registry_of(const std::string &reference) {
    const size_t slash = reference.find('/');
    const std::string host = reference.substr(0, slash);
    if (slash == std::string::npos || (host.find_first_of(".:") == std::string::npos && host != "localhost"))
        return kHubServer;
    return login_server(host);
}

struct AuthConfig::Impl {
    std::string path;
    json::object document;
};

AuthConfig::AuthConfig() : impl_(std::make_unique<Impl>()) {
    impl_->path = config_folder() + "/config.json";
    const UniqueFd fd(::open(impl_->path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT || errno == ENOTDIR) return;
        throw Error::from_errno(errno, "open " + impl_->path);
    }
    const std::string text = read_all(fd.get(), kMaxConfig, impl_->path);
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) return;
    boost::system::error_code failed;
    auto value = json::parse(text, failed);
    if (failed || !value.is_object())
        throw Error(ErrorClass::kInvalidArgument,
                    "read " + impl_->path + ": " + (failed ? failed.message() : "it is not a JSON object"));
    impl_->document = std::move(value.get_object());
}

AuthConfig::~AuthConfig() = default;

std::string AuthConfig::helper_for(const std::string &server) const {
    const json::value document(impl_->document);
    const json::value &helpers = at(document, "credHelpers");
    std::string name = text_at(helpers, server);
    if (name.empty()) name = text_at(helpers, host_part(server));
    return name.empty() ? text_at(document, "credsStore") : name;
}

RegistryLogin AuthConfig::find(const std::string &server) const {
    RegistryLogin out;
    out.server = server;
    if (const std::string helper = helper_for(server); !helper.empty()) {
        try {
            boost::system::error_code failed;
            const auto answer = json::parse(run_credential_helper(helper, "get", server), failed);
            if (failed)
                throw Error(ErrorClass::kDataLoss,
                            "read the answer of docker-credential-" + helper + ": " + failed.message());
            out.username = text_at(answer, "Username");
            out.password = text_at(answer, "Secret");
            if (out.username == kTokenUser) {
                out.identity_token = std::move(out.password);
                out.username.clear();
                out.password.clear();
            }
        } catch (const Error &error) {
            if (error.error_class() != ErrorClass::kNotFound) throw;
        }
        return out;
    }
    const json::value document(impl_->document);
    const json::value *entry = nullptr;
    if (const auto *all = at(document, "auths").if_object()) {
        entry = all->if_contains(server);
        if (!entry) // "https://host/v1/" of older logins
            for (const auto &item : *all)
                if (login_server(std::string(item.key())) == server && !entry) entry = &item.value();
    }
    if (!entry) return out;
    out.username = text_at(*entry, "username");
    out.password = text_at(*entry, "password");
    if (const std::string pair = decode_base64(text_at(*entry, "auth")); !pair.empty()) {
        out.username = pair.substr(0, pair.find(':'));
        out.password = pair.find(':') == std::string::npos ? "" : pair.substr(pair.find(':') + 1);
    }
    out.identity_token = text_at(*entry, "identitytoken");
    out.registry_token = text_at(*entry, "registrytoken");
    return out;
}

std::string AuthConfig::store(const RegistryLogin &login) {
    json::object &auths = object_in(impl_->document, "auths");
    if (const std::string helper = helper_for(login.server); !helper.empty()) {
        const bool token = !login.identity_token.empty();
        run_credential_helper(
            helper, "store",
            json::serialize(json::object{{"ServerURL", login.server},
                                         {"Username", token ? kTokenUser : login.username.c_str()},
                                         {"Secret", token ? login.identity_token : login.password}}));
        auths[login.server] = json::object(); // Docker's sign that the store has something
        save();
        return {};
    }
    json::object entry{{"auth", encode_base64(login.username + ":" + login.password, false)}};
    if (!login.identity_token.empty()) {
        entry["auth"] = encode_base64(login.username + ":", false);
        entry["identitytoken"] = login.identity_token;
    }
    auths[login.server] = std::move(entry);
    save();
    return impl_->path;
}

bool AuthConfig::erase(const std::string &server) {
    bool known = false;
    json::object &auths = object_in(impl_->document, "auths");
    std::vector<std::string> keys;
    for (const auto &item : auths)
        if (std::string(item.key()) == server || login_server(std::string(item.key())) == server)
            keys.emplace_back(item.key());
    if (const std::string helper = helper_for(server); !helper.empty()) {
        try {
            known = !find(server).empty();
        } catch (const Error &) { // it will say so itself
        }
        run_credential_helper(helper, "erase", server);
    }
    for (const std::string &key : keys)
        auths.erase(key);
    if (!keys.empty()) save();
    return known || !keys.empty();
}

void AuthConfig::save() const {
    // A link (dotfiles kept elsewhere) stays one.
    std::string path = impl_->path;
    char resolved[PATH_MAX];
    if (::realpath(path.c_str(), resolved)) path = resolved;
    const std::string folder = path.substr(0, path.rfind('/'));
    for (size_t at = 1; at != std::string::npos; at = folder.find('/', at + 1)) {
        const size_t end = std::min(folder.find('/', at + 1), folder.size());
        if (::mkdir(folder.substr(0, end).c_str(), 0700) != 0 && errno != EEXIST)
            throw Error::from_errno(errno, "make folder " + folder.substr(0, end));
    }
    std::string text;
    pretty(json::value(impl_->document), text, 0);
    text += '\n';
    std::string temporary = path + ".XXXXXX"; // mkostemp makes it 0600
    const UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!fd) throw Error::from_errno(errno, "write " + path);
    try {
        write_all(fd.get(), text, path);
        if (::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0)
            throw Error::from_errno(errno, "write " + path);
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
}

std::string encode_registry_auth(const RegistryLogin &login) {
    json::object out;
    if (!login.empty()) {
        out["username"] = login.username;
        out["password"] = login.password;
        out["serveraddress"] = login.server;
        if (!login.identity_token.empty()) out["identitytoken"] = login.identity_token;
        if (!login.registry_token.empty()) out["registrytoken"] = login.registry_token;
    }
    return encode_base64(json::serialize(out), true);
}

std::string registry_auth_header(const std::string &server) {
    RegistryLogin login;
    try {
        login = AuthConfig().find(server);
    } catch (const Error &error) {
        print_error("WARNING: credentials of " + server + ": " + error.message());
    }
    return encode_registry_auth(login);
}

} // namespace gantry::cli
