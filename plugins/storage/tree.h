// Directory trees as the storage drivers need them: removed, measured and copied whole. Shared source
// of the storage plugins, which link the SDK only.
#pragma once

#include <gantry/storage.hpp>

#include <functional>
#include <string>

namespace gantry::storage {

/// Owns a descriptor.
class Fd {
  public:
    explicit Fd(int fd = -1) noexcept : fd_(fd) {}
    Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd &operator=(Fd &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd();
    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }

  private:
    int fd_;
};

Fd open_directory(int at, const std::string &path);
std::vector<std::string> names_in(int dir, const std::string &shown);

/// Removes `name` below `at` whatever it is. Deeply nested trees are flattened on the way, so that the
/// number of open descriptors stays bounded. A missing name is fine.
void remove_tree(int at, const std::string &name);
/// Allocated bytes and inodes, hard links counted once; the top directory is not counted.
Usage measure_tree(int dir, const Call &call);
/// Copies the content and the attributes of one directory into another that is empty: reflinks where
/// the file system has them, holes, hard links, owners, modes, times and extended attributes kept.
void copy_tree(int from, int to, const Call &call);
void copy_attributes(int from, int to, const std::string &shown);

} // namespace gantry::storage
