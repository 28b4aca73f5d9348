// The listening socket and a thread per connection. Blocking code is what attach, logs and pull are
// naturally written in; a connection costs one small stack, and there are few (cap 1024; when it is reached,
// the connection that has been idle for the longest time gives way).
#pragma once

#include "core/api/router.h"

#include <memory>
#include <string>

namespace gantry::api {

struct ServerSettings {
    std::string socket_path, socket_group, run_dir;
    unsigned max_connections = 1024;
    HttpLimits limits = {};
};

class Server {
  public:
    /// Takes run/gantryd.lock and binds; systemd's socket (LISTEN_FDS) is used when it is handed over.
    /// Throws kFailedPrecondition when another engine holds the lock or answers on the socket.
    Server(const ServerSettings &settings, std::shared_ptr<const Router> router);
    ~Server();
    /// Accepts until stop(); then lets requests end for `grace_ms`. False: some still run.
    bool run(int grace_ms);
    void stop() noexcept; // async-signal-safe
    /// Where it listens: the configured path, or that of systemd's socket.
    const std::string &address() const;
    /// For an end without destructors; a socket that systemd owns stays.
    void remove_socket() noexcept;

  private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

/// The engine's lock: held until the descriptor closes. Throws kFailedPrecondition with the holder's pid.
UniqueFd lock_engine(const std::string &run_dir);

} // namespace gantry::api
