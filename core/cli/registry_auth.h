// Who the user is at which registry: Docker's config.json with its credential stores and helpers, so that a
// `docker login` counts here and a `gantry login` there.
//
// The folder is GANTRY_CONFIG_DIR, else DOCKER_CONFIG, else ~/.docker.
#pragma once

#include <boost/json/fwd.hpp>

#include <memory>
#include <string>

namespace gantry::cli {

struct RegistryLogin {
    std::string server; // as Docker keys it: "https://index.docker.io/v1/" or "host[:port]"
    std::string username, password, identity_token, registry_token;
    bool empty() const { return username.empty() && identity_token.empty() && registry_token.empty(); }
};

/// Docker's key of a registry: of "", "docker.io" and its other names the index; else host[:port].
std::string login_server(const std::string &registry);
/// The registry of an image reference, as login_server() gives it.
std::string registry_of(const std::string &reference);

class AuthConfig {
  public:
    /// Reads the file; a missing one is empty. Throws kInvalidArgument for one that is no JSON object.
    AuthConfig();
    ~AuthConfig();
    /// What is stored for a server; asks its credential helper. `empty()` when nothing is.
    RegistryLogin find(const std::string &server) const;
    /// To the helper or store that the file names, else into the file (mode 0600, other keys kept).
    /// Returns the file when the secret is in it, else "".
    std::string store(const RegistryLogin &login);
    /// False when nothing was stored.
    bool erase(const std::string &server);

  private:
    std::string helper_for(const std::string &server) const;
    void save() const;
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// The X-Registry-Auth header for a server: what is stored, or an empty object. A helper that fails is said
/// on standard error, and the request goes on without.
std::string registry_auth_header(const std::string &server);
std::string encode_registry_auth(const RegistryLogin &login);

std::string encode_base64(std::string_view bytes, bool url_alphabet);
/// Both alphabets, padding or not. "" for what is none.
std::string decode_base64(std::string_view text);

/// Runs docker-credential-NAME: `input` to its standard input, at most 1 MiB of its output back. Throws
/// kNotFound when it knows nothing of the server.
std::string run_credential_helper(const std::string &name, const std::string &action,
                                  const std::string &input);

} // namespace gantry::cli
