// A driver of each kind whose every call takes a transport: to a thread (handover.h) or to a child process
// (process.h). Calls of a transport are by method, so this is the whole list of operations, once.
#pragma once

#include <gantry/network.hpp>
#include <gantry/registry.hpp>
#include <gantry/storage.hpp>

namespace gantry {

template <typename Calls> class StorageForward : public StorageDriver {
  public:
    explicit StorageForward(Calls calls) : calls_(std::move(calls)) {}

    StorageCaps caps(const Call &c) override { return go<&StorageDriver::caps>(c, "caps"); }
    void create(const Call &c, const std::string &id, const LayerIds &parents, uint64_t size_limit) override {
        go<&StorageDriver::create>(c, "create", id, parents, size_limit);
    }
    std::vector<Mount> mounts(const Call &c, const std::string &id, const LayerIds &parents,
                              bool read_only) override {
        return go<&StorageDriver::mounts>(c, "mounts", id, parents, read_only);
    }
    void commit(const Call &c, const std::string &id, const LayerIds &parents, bool durable) override {
        go<&StorageDriver::commit>(c, "commit", id, parents, durable);
    }
    void remove(const Call &c, const std::string &id) override {
        go<&StorageDriver::remove>(c, "remove", id);
    }
    Usage usage(const Call &c, const std::string &id) override {
        return go<&StorageDriver::usage>(c, "usage", id);
    }
    std::vector<std::string> list(const Call &c) override { return go<&StorageDriver::list>(c, "list"); }
    bool has_changes() const override { return calls_.has_changes(); }
    void changes(const Call &c, const std::string &id, const LayerIds &parents,
                 const std::function<void(const Change &)> &each) override {
        calls_.template call<&StorageDriver::changes>(c, "changes", true, id, parents, each);
    }

  private:
    template <auto method, typename... A> auto go(const Call &c, const char *operation, A &&...args) {
        return calls_.template call<method>(c, operation, false, args...);
    }
    Calls calls_;
};

template <typename Calls> class NetworkForward : public NetworkDriver {
  public:
    explicit NetworkForward(Calls calls) : calls_(std::move(calls)) {}

    NetworkCaps caps(const Call &c) override { return go<&NetworkDriver::caps>(c, "caps"); }
    std::vector<Subnet> create_network(const Call &c, const NetworkSpec &spec) override {
        return go<&NetworkDriver::create_network>(c, "create_network", spec);
    }
    void remove_network(const Call &c, const NetworkSpec &spec) override {
        go<&NetworkDriver::remove_network>(c, "remove_network", spec);
    }
    EndpointInfo attach(const Call &c, const EndpointSpec &spec) override {
        return go<&NetworkDriver::attach>(c, "attach", spec);
    }
    void detach(const Call &c, const EndpointSpec &spec) override {
        go<&NetworkDriver::detach>(c, "detach", spec);
    }
    std::vector<PortBinding> publish(const Call &c, const std::string &endpoint_id, const EndpointInfo &info,
                                     const std::vector<PortBinding> &ports) override {
        return go<&NetworkDriver::publish>(c, "publish", endpoint_id, info, ports);
    }
    void restore(const Call &c, const std::vector<NetworkSpec> &networks,
                 const std::vector<EndpointState> &endpoints) override {
        go<&NetworkDriver::restore>(c, "restore", networks, endpoints);
    }
    NetworkStats stats(const Call &c, const EndpointSpec &spec) override {
        return go<&NetworkDriver::stats>(c, "stats", spec);
    }
    void clean(const Call &c) override { go<&NetworkDriver::clean>(c, "clean"); }

  private:
    template <auto method, typename... A> auto go(const Call &c, const char *operation, A &&...args) {
        return calls_.template call<method>(c, operation, false, args...);
    }
    Calls calls_;
};

template <typename Calls> class RegistryForward : public RegistryDriver {
  public:
    explicit RegistryForward(Calls calls) : calls_(std::move(calls)) {}

    bool handles(const Call &c, const RegistryReference &ref) override {
        return go<&RegistryDriver::handles>(c, "handles", ref);
    }
    Descriptor resolve(const Call &c, const RegistryReference &ref,
                       const std::optional<Credential> &credential, std::string *body) override {
        if (body) body->clear();
        return go<&RegistryDriver::resolve>(c, "resolve", ref, credential, body);
    }
    // A blob takes as long as it takes; what ends a transfer is that nothing moves.
    void fetch(const Call &c, const Fetch &what, const BlobSink &sink) override {
        calls_.template call<&RegistryDriver::fetch>(c, "fetch", true, what, sink);
    }
    void push(const Call &c, const Push &what, const BlobSource &source) override {
        calls_.template call<&RegistryDriver::push>(c, "push", true, what, source);
    }
    std::vector<std::string> tags(const Call &c, const RegistryReference &ref,
                                  const std::optional<Credential> &credential) override {
        return go<&RegistryDriver::tags>(c, "tags", ref, credential);
    }
    std::vector<SearchResult> search(const Call &c, const std::string &registry, const std::string &term,
                                     uint32_t limit, const std::optional<Credential> &credential) override {
        return go<&RegistryDriver::search>(c, "search", registry, term, limit, credential);
    }
    std::vector<EndpointLine> explain(const Call &c, const RegistryReference &ref) override {
        return go<&RegistryDriver::explain>(c, "explain", ref);
    }
    std::string login(const Call &c, const Credential &credential) override {
        return go<&RegistryDriver::login>(c, "login", credential);
    }
    std::string referrers(const Call &c, const RegistryReference &ref, const std::string &artifact_type,
                          const std::optional<Credential> &credential) override {
        return go<&RegistryDriver::referrers>(c, "referrers", ref, artifact_type, credential);
    }
    std::vector<EndpointLine> status(const Call &c) override {
        return go<&RegistryDriver::status>(c, "status");
    }
    std::vector<EndpointLine> test(const Call &c, const RegistryReference &ref,
                                   const std::optional<Credential> &credential) override {
        return go<&RegistryDriver::test>(c, "test", ref, credential);
    }

  private:
    template <auto method, typename... A> auto go(const Call &c, const char *operation, A &&...args) {
        return calls_.template call<method>(c, operation, false, args...);
    }
    Calls calls_;
};

} // namespace gantry
