// The manifest types that gantry understands, as a request header.
#pragma once

namespace gantry::oci {

inline constexpr const char *kManifestAccept =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*";

} // namespace gantry::oci
