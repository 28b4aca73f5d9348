// Certificates by host in a directory, as Docker keeps them below /etc/docker/certs.d.
#pragma once

#include "http.h"

#include <string>

namespace gantry::oci {

/// Adds what <dir>/<host[:port]>/ holds: *.crt are authorities, NAME.cert with NAME.key is the client's
/// certificate (the first by name; one that is configured already stays). A missing directory is empty.
void add_host_certs(const std::string &dir, const std::string &host, TlsSettings &tls);

} // namespace gantry::oci
