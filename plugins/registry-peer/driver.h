// The "peer" registry driver: the gantry engines of a site give each other the blobs that they have, so that
// an image crosses the slow line once.
//
// A peer is asked for bytes by digest and never for the meaning of a tag: what comes from it is either what
// the digest says or is thrown away, so a peer can waste time and nothing else. It stands in a chain before
// the driver that resolves tags: [registry] drivers = ["peer", "oci"].
//
// Serving gives every holder of the secret every blob of this engine whose digest it knows, whatever registry
// it came from: one secret, one circle of trust.
#pragma once

#include "options.h"
#include "peers.h"
#include "server.h"

#include <gantry/registry.hpp>

#include <memory>

namespace gantry::peer {

class PeerDriver : public RegistryDriver {
  public:
    /// What it needs of its host.
    struct Services {
        OpenBlob open;
        LogLine log;
        Count count;
    };
    /// Listens when it is told to, or throws.
    PeerDriver(const Options &options, Services services);
    ~PeerDriver() override;

    bool handles(const Call &call, const RegistryReference &ref) override;
    /// Of a digest only.
    Descriptor resolve(const Call &call, const RegistryReference &ref,
                       const std::optional<Credential> &credential, std::string *body) override;
    void fetch(const Call &call, const Fetch &what, const BlobSink &sink) override;
    std::vector<EndpointLine> explain(const Call &call, const RegistryReference &ref) override;
    std::vector<EndpointLine> status(const Call &call) override;
    std::vector<EndpointLine> test(const Call &call, const RegistryReference &ref,
                                   const std::optional<Credential> &credential) override;

    /// Where it serves, "" for nowhere.
    std::string address() const;

  private:
    struct Wish;
    bool take(const Call &call, Peers::Connection &link, Wish &wish);
    EndpointLine line(size_t peer) const;

    const Options options_;
    const Services services_;
    const TlsKey key_;
    std::unique_ptr<Server> server_;
    Peers peers_;
};

} // namespace gantry::peer
