// Named and anonymous volumes: directories root/volumes/<name>/_data and their records.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace gantry {

class Db;
class Events;

struct Volume {
    std::string name, driver = "local", mountpoint;
    std::map<std::string, std::string> labels, options;
    bool anonymous = false;
    int64_t created_ns = 0;
    int users = 0;
};

/// Thread-safe.
class Volumes {
  public:
    Volumes(Db &db, Events &events, const std::string &root);
    ~Volumes();
    /// Idempotent on the same name; "" makes an anonymous one. Options other than none: kUnsupported.
    Volume create(const std::string &name, const std::map<std::string, std::string> &labels,
                  const std::map<std::string, std::string> &options);
    Volume get(const std::string &name) const; // kNotFound "get X: no such volume"
    std::vector<Volume> list() const;
    void remove(const std::string &name, bool force); // kFailedPrecondition while in use
    void use(const std::string &name, const std::string &container_id);
    /// Bytes the volume occupies, counted by walking through it; links are not followed and other file
    /// systems mounted in it not entered. 0 when it is gone.
    uint64_t size(const std::string &name) const;
    std::vector<std::string> used_by(const std::string &container_id) const;
    void recover();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
