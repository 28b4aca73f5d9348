// See networks.h. Every change is intent (a row with state), the driver's work, completion; the database
// is never held over a driver call. After a crash recover() sees what was meant and tells the driver the
// truth once.
#include "core/network/networks.h"

#include "core/base/cancel.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/events/events.h"
#include "core/network/records.h"
#include "core/store/db.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <set>

namespace gantry {

namespace {

constexpr int64_t kDriverTimeout = 30'000'000'000;

Endpoint endpoint_from(Statement &row) {
    Endpoint e;
    e.id = row.text(0);
    e.network_id = row.text(1);
    e.network_name = row.text(2);
    e.owner = row.text(3);
    e.spec = endpoint_spec_from_json(row.text(4));
    e.info = endpoint_info_from_json(row.text(5));
    e.ports = ports_from_json(row.text(6));
    return e;
}

Network network_from(Statement &row) {
    Network n;
    n.id = row.text(0);
    n.name = row.text(1);
    n.driver = row.text(2);
    n.spec = network_spec_from_json(row.text(3));
    n.created_ns = row.integer(4);
    return n;
}

CallScope::Settings settings_for(const std::string &subject) {
    CallScope::Settings s;
    s.timeout_ns = kDriverTimeout;
    s.subject = subject;
    return s;
}

/// The driver wants its calls for one endpoint one after the other. A turn is no lock: a call that hangs
/// keeps those of no other endpoint waiting.
class Turns {
  public:
    class Turn {
      public:
        Turn(Turns &all, std::string id) : all_(all), id_(std::move(id)) {}
        ~Turn() {
            const std::lock_guard lock(all_.mutex_);
            all_.taken_.erase(id_);
            all_.ended_.notify_all();
        }
        Turn(const Turn &) = delete;

      private:
        Turns &all_;
        const std::string id_;
    };
    Turn take(const std::string &id) {
        std::unique_lock lock(mutex_);
        ended_.wait(lock, [&] { return !taken_.contains(id); });
        taken_.insert(id);
        return {*this, id};
    }

  private:
    std::mutex mutex_;
    std::condition_variable ended_;
    std::set<std::string> taken_;
};

} // namespace

struct Networks::Impl {
    Db &db;
    std::shared_ptr<NetworkDriver> driver;
    std::string driver_name;
    Events &events;
    /// The default network and its endpoints while the driver cannot make it (no free subnet ...).
    std::mutex unmade_mutex{};
    std::optional<std::pair<Network, std::vector<EndpointState>>> unmade{};
    Turns turns; // by endpoint

    NetworkDriver &need_driver() const {
        if (!driver)
            throw Error(ErrorClass::kUnsupported, "use network: no network driver is loaded",
                        "set driver in [network], or run with --network none or host");
        return *driver;
    }

    std::vector<Endpoint> select(const char *where, const std::string &value) const {
        std::vector<Endpoint> out;
        db.transact([&](Db &d) {
            Statement s =
                d.prepare(std::string("SELECT e.id, e.network, n.name, e.owner, e.spec, e.info, e.ports "
                                      "FROM endpoint e JOIN network n ON n.id = e.network WHERE ") +
                          where + " = ?");
            s.bind(1, value);
            while (s.step())
                out.push_back(endpoint_from(s));
        });
        return out;
    }

    Endpoint need(const std::string &endpoint_id) const {
        auto found = select("e.id", endpoint_id);
        if (found.empty())
            throw Error(ErrorClass::kNotFound,
                        "find endpoint " + endpoint_id.substr(0, 12) + ": no such endpoint");
        return std::move(found.front());
    }

    /// Docker tells of containers only; a sandbox that waits for one is nobody's business.
    bool is_container(Db &d, const std::string &owner) const {
        Statement s = d.prepare("SELECT 1 FROM container WHERE id = ?");
        s.bind(1, owner);
        return s.step();
    }
    void tell(const char *action, const Endpoint &e) const {
        Event event;
        event.type = "network";
        event.action = action;
        event.id = e.network_id;
        event.attributes = {{"container", e.owner}, {"name", e.network_name}, {"type", driver_name}};
        events.publish(std::move(event));
    }

    void forget(const std::string &endpoint_id) {
        db.transact(
            [&](Db &d) { d.prepare("DELETE FROM endpoint WHERE id = ?").bind_all(endpoint_id).run(); });
    }

    void detach(const Endpoint &e) {
        const Turns::Turn turn = turns.take(e.id);
        bool container = false;
        db.transact([&](Db &d) {
            d.prepare("UPDATE endpoint SET state = 'removing' WHERE id = ?").bind_all(e.id).run();
            container = is_container(d, e.owner);
        });
        const CallScope scope(settings_for(e.owner));
        if (driver) driver->detach(scope, e.spec);
        forget(e.id);
        if (container) tell("disconnect", e);
    }

    /// Brings the default network about, if that is still to be done. unmade_mutex is held.
    void make_bridge() {
        if (!unmade) return;
        const CallScope scope(settings_for(""));
        auto &[bridge, truth] = *unmade;
        bridge.spec.subnets = driver->create_network(scope, bridge.spec);
        db.transact([&](Db &d) {
            d.prepare("UPDATE network SET spec = ?, driver = ? WHERE id = ?")
                .bind_all(to_json(bridge.spec), driver_name, bridge.id)
                .run();
        });
        std::erase_if(truth, [&](const auto &state) { return select("e.id", state.spec.id).empty(); });
        driver->restore(scope, {bridge.spec}, truth);
        unmade.reset();
    }

    Network make_record(const char *name, const std::string &network_driver) {
        Network n;
        db.transact([&](Db &d) {
            Statement s = d.prepare("SELECT id, name, driver, spec, created FROM network WHERE name = ?");
            s.bind(1, name);
            if (s.step()) {
                n = network_from(s);
                return;
            }
            n.id = new_id();
            n.name = name;
            n.driver = network_driver;
            n.created_ns = wall_ns();
            n.spec.id = n.id;
            n.spec.name = name;
            d.prepare("INSERT INTO network(id, name, driver, spec, created) VALUES(?, ?, ?, ?, ?)")
                .bind_all(n.id, n.name, n.driver, to_json(n.spec), n.created_ns)
                .run();
        });
        return n;
    }
};

Networks::Networks(Db &db, std::shared_ptr<NetworkDriver> driver, std::string driver_name, Events &events)
    : impl_(new Impl{db, std::move(driver), std::move(driver_name), events}) {}
Networks::~Networks() = default;

void Networks::recover(const std::vector<std::string> &live_owners) {
    Network bridge = impl_->make_record("bridge", impl_->driver_name.empty() ? "bridge" : impl_->driver_name);
    impl_->make_record("host", "host");
    impl_->make_record("none", "null");
    const std::set<std::string> live(live_owners.begin(), live_owners.end());
    std::vector<Endpoint> gone;
    std::vector<EndpointState> truth;
    impl_->db.transact([&](Db &d) {
        Statement s = d.prepare("SELECT e.id, e.network, n.name, e.owner, e.spec, e.info, e.ports, e.state "
                                "FROM endpoint e JOIN network n ON n.id = e.network");
        while (s.step()) {
            Endpoint e = endpoint_from(s);
            if (s.text(7) == "ready" && live.contains(e.owner))
                truth.push_back({e.spec, e.info, e.ports});
            else
                gone.push_back(std::move(e));
        }
    });
    if (impl_->driver) {
        // With nobody on it the network follows the configuration; otherwise it stays what it is.
        if (truth.empty()) bridge.spec.subnets.clear();
        const std::lock_guard lock(impl_->unmade_mutex);
        impl_->unmade.emplace(std::move(bridge), std::move(truth));
        try {
            impl_->make_bridge();
        } catch (const Error &e) {
            // Containers without a network still work; attach() tries again, and says why it cannot be.
            log_error("network bridge: {}{}{}", e.message(), e.hint().empty() ? "" : "; ", e.hint());
        }
    }
    for (const Endpoint &e : gone) {
        try {
            impl_->detach(e);
        } catch (const Error &error) {
            log_warn("detach endpoint {}: {}", e.id.substr(0, 12), error.message());
        }
    }
}

Endpoint Networks::attach(const AttachRequest &request) {
    const Network network = get(request.network);
    if (network.driver == "host" || network.driver == "null")
        throw Error(ErrorClass::kInvalidArgument,
                    "attach to network " + network.name + ": it has no endpoints");
    NetworkDriver &driver = impl_->need_driver();
    {
        const std::lock_guard lock(impl_->unmade_mutex);
        impl_->make_bridge();
    }
    Endpoint e;
    e.id = new_id();
    e.network_id = network.id;
    e.network_name = network.name;
    e.owner = request.owner;
    e.spec.id = e.id;
    e.spec.network_id = network.id;
    e.spec.ipv4 = request.ipv4;
    e.spec.ipv6 = request.ipv6;
    e.spec.mac = request.mac;
    e.spec.hostname = request.hostname;
    const auto taken = endpoints_of(request.owner).size();
    e.spec.interface_name = "eth" + std::to_string(taken);
    const std::string record = to_json(e.spec);
    impl_->db.transact([&](Db &d) {
        d.prepare("INSERT INTO endpoint(id, network, owner, state, spec) VALUES(?, ?, ?, 'making', ?)")
            .bind_all(e.id, e.network_id, e.owner, record)
            .run();
    });
    bool container = false;
    const CallScope scope(settings_for(request.owner));
    bool attached = false;
    try {
        EndpointSpec live = e.spec;
        live.netns_fd = request.netns_fd;
        e.info = driver.attach(scope, live);
        attached = true;
        impl_->db.transact([&](Db &d) {
            d.prepare("UPDATE endpoint SET state = 'ready', info = ? WHERE id = ?")
                .bind_all(to_json(e.info), e.id)
                .run();
            container = impl_->is_container(d, e.owner);
        });
    } catch (...) {
        try {
            if (attached) driver.detach(scope, e.spec);
            impl_->forget(e.id);
        } catch (const Error &error) {
            log_warn("undo endpoint {}: {}", e.id.substr(0, 12), error.message());
        }
        throw;
    }
    if (container) impl_->tell("connect", e);
    return e;
}

void Networks::adopt(const std::string &endpoint_id, const std::string &owner) {
    bool container = false;
    impl_->db.transact([&](Db &d) {
        d.prepare("UPDATE endpoint SET owner = ? WHERE id = ? AND state = 'ready'")
            .bind_all(owner, endpoint_id)
            .run();
        if (d.changes() == 0)
            throw Error(ErrorClass::kNotFound,
                        "adopt endpoint " + endpoint_id.substr(0, 12) + ": no such endpoint");
        container = impl_->is_container(d, owner);
    });
    if (container) impl_->tell("connect", impl_->need(endpoint_id));
}

std::vector<PortBinding> Networks::publish(const std::string &endpoint_id,
                                           const std::vector<PortBinding> &ports) {
    NetworkDriver &driver = impl_->need_driver();
    const Turns::Turn turn = impl_->turns.take(endpoint_id);
    const Endpoint before = impl_->need(endpoint_id);
    if (ports.empty() && before.ports.empty()) return {};
    const CallScope scope(settings_for(before.owner));
    const std::vector<PortBinding> settled = driver.publish(scope, endpoint_id, before.info, ports);
    try {
        impl_->db.transact([&](Db &d) {
            d.prepare("UPDATE endpoint SET ports = ? WHERE id = ? AND state = 'ready'")
                .bind_all(to_json(settled), endpoint_id)
                .run();
            if (d.changes() == 0)
                throw Error(ErrorClass::kNotFound, "publish ports of endpoint " + endpoint_id.substr(0, 12) +
                                                       ": it is being removed");
        });
    } catch (...) {
        try {
            driver.publish(scope, endpoint_id, before.info, before.ports);
        } catch (const Error &error) {
            log_warn("undo ports of endpoint {}: {}", endpoint_id.substr(0, 12), error.message());
        }
        throw;
    }
    return settled;
}

void Networks::detach_all(const std::string &owner) {
    std::exception_ptr first;
    for (const Endpoint &e : endpoints_of(owner)) {
        try {
            impl_->detach(e);
        } catch (const Error &) {
            if (!first) first = std::current_exception();
        }
    }
    if (first) std::rethrow_exception(first);
}

std::vector<Endpoint> Networks::endpoints_of(const std::string &owner) const {
    return impl_->select("e.owner", owner);
}

std::vector<Endpoint> Networks::endpoints_on(const std::string &network_id) const {
    return impl_->select("e.network", network_id);
}

std::optional<NetworkStats> Networks::stats(const std::string &endpoint_id, int netns_fd) const {
    if (!impl_->driver || netns_fd < 0) return std::nullopt;
    auto found = impl_->select("e.id", endpoint_id);
    if (found.empty()) return std::nullopt;
    EndpointSpec spec = found.front().spec;
    spec.netns_fd = netns_fd;
    const CallScope scope(settings_for(found.front().owner));
    try {
        return impl_->driver->stats(scope, spec);
    } catch (const Error &) { // the container is ending
        return std::nullopt;
    }
}

std::vector<Network> Networks::list() const {
    std::vector<Network> out;
    impl_->db.transact([&](Db &d) {
        Statement s = d.prepare("SELECT id, name, driver, spec, created FROM network ORDER BY name");
        while (s.step())
            out.push_back(network_from(s));
    });
    return out;
}

Network Networks::get(const std::string &name_or_id) const {
    const std::string wanted = name_or_id.empty() || name_or_id == "default" ? "bridge" : name_or_id;
    std::optional<Network> found;
    std::vector<Network> by_prefix;
    for (Network &n : list()) {
        if (n.name == wanted || n.id == wanted) found = n;
        if (wanted.size() >= 3 && n.id.starts_with(wanted)) by_prefix.push_back(std::move(n));
    }
    if (found) return *found;
    if (by_prefix.size() == 1) return by_prefix.front();
    if (by_prefix.size() > 1)
        throw Error(ErrorClass::kInvalidArgument, "network " + wanted.substr(0, 128) + " is ambiguous (" +
                                                      std::to_string(by_prefix.size()) + " matches found)");
    throw Error(ErrorClass::kNotFound, "network " + wanted.substr(0, 128) + " not found");
}

NetworkCaps Networks::caps() const {
    if (!impl_->driver) return {};
    const CallScope scope(settings_for(""));
    return impl_->driver->caps(scope);
}

} // namespace gantry
