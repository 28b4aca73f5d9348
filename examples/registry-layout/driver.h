// Images from OCI layouts on a disk, for sites without a registry. For docker.io/library/nginx:1.27 each
// source is asked, in their order, for
//
//   SOURCE/docker.io/library/nginx   a layout of that repository,
//   SOURCE/library/nginx             the same without the registry,
//   SOURCE                           one layout of many images,
//
// in which index.json names a manifest "1.27", or "docker.io/library/nginx:1.27" as `docker save` and
// containerd do. Several manifests of one name are one image for several platforms: the index made of them
// has no bytes on disk, so the one for this machine is taken. A nested index goes to the engine as it is.
//
// The media may come from anywhere: everything is opened below its source, whatever links it holds, only
// regular files are read, with limits; digests are checked by the engine.
#pragma once

#include <gantry/fd.hpp>
#include <gantry/json.hpp>
#include <gantry/registry.hpp>

class LayoutDriver : public gantry::RegistryDriver {
  public:
    LayoutDriver(std::vector<std::string> sources, std::vector<std::string> registries);

    bool handles(const gantry::Call &call, const gantry::RegistryReference &ref) override;
    gantry::Descriptor resolve(const gantry::Call &call, const gantry::RegistryReference &ref,
                               const std::optional<gantry::Credential> &credential,
                               std::string *body) override;
    void fetch(const gantry::Call &call, const gantry::Fetch &fetch, const gantry::BlobSink &sink) override;
    std::vector<std::string> tags(const gantry::Call &call, const gantry::RegistryReference &ref,
                                  const std::optional<gantry::Credential> &credential) override;
    std::vector<gantry::EndpointLine> explain(const gantry::Call &call,
                                              const gantry::RegistryReference &ref) override;

  private:
    struct Layout {
        std::string source, path; // path below the source, "" for the source itself
        std::string url() const { return "file://" + source + (path.empty() ? "" : "/" + path); }
    };
    std::vector<Layout> layouts(const gantry::RegistryReference &ref) const;

    std::vector<std::string> sources_, registries_;
};
