// Images from OCI image layouts (index.json, blobs/ALGORITHM/HEX). REGISTRY/team/app:1.2 is the manifest that
// DIRECTORY/team/app/index.json calls 1.2. The engine checks every byte against its digest; what is left to
// this driver is to open nothing but what lies below its directory.
#pragma once

#include <gantry/fd.hpp>
#include <gantry/registry.hpp>

class @CLASS@ : public gantry::RegistryDriver {
  public:
    @CLASS@(std::string directory, std::string registry);

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
    gantry::UniqueFd open(const std::string &path, const std::string &doing) const;

    std::string directory_, registry_;
};
