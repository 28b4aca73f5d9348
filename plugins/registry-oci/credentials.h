// Who we are at an endpoint. Each endpoint has credentials of its own; those of a request go to the
// registry that they were made for, never to a mirror.
#pragma once

#include "auth.h"
#include "endpoints.h"

#include <gantry/registry.hpp>

#include <optional>
#include <string>

namespace gantry::oci {

/// "docker.io" for Docker Hub's many names; else the host (with port) of a server as clients write it.
std::string normal_server(std::string server);

/// The entry for `host` in a config.json: auths.<host> with auth, username and password, or
/// identitytoken. Keys may carry a scheme and "/v1/" or "/v2/"; other paths do not match. nullopt when
/// there is none. Throws kFailedPrecondition when the text is no such file.
std::optional<EndpointCredential> find_in_config_json(const std::string &text, const std::string &host);

/// In this order: the request's (origin only), the configuration's, auth_file's, nobody. Reads
/// password_file and auth_file at each call, so that they may be rotated. Throws kFailedPrecondition.
EndpointCredential credential_for(const Endpoint &endpoint, const std::optional<Credential> &of_request,
                                  const std::string &auth_file);

} // namespace gantry::oci
