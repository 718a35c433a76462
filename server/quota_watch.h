#ifndef SPHERICAL_SERVER_QUOTA_WATCH_H_
#define SPHERICAL_SERVER_QUOTA_WATCH_H_

#include <functional>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace spherical::server {

// Says when a file may have changed: written in place, renamed over, deleted and made again, or behind a symbolic link that was moved, as
// Kubernetes does with the `..data` of a config map. It watches the file's folder, so all of these are seen; and looks at what the path
// leads to every now and then, for what a folder does not tell (a link to elsewhere, a network file system, a folder made again).
//
// Calls come on its own thread, once at the start, and then after each burst of changes: a writer is given `quiet` to finish, but
// one that never rests does not put the call off for ever. Whoever is called finds out whether anything changed.
class QuotaWatch {
 public:
  struct Options {
    absl::Duration quiet = absl::Milliseconds(100);
    absl::Duration look = absl::Seconds(5);
  };
  QuotaWatch(std::string file, std::function<void()> changed, Options options);
  QuotaWatch(std::string file, std::function<void()> changed) : QuotaWatch(std::move(file), std::move(changed), Options()) {}
  ~QuotaWatch();  // no call is under way afterwards
  QuotaWatch(const QuotaWatch&) = delete;
  QuotaWatch& operator=(const QuotaWatch&) = delete;

 private:
  enum class Event { kNone, kChange, kStop };

  void Run();
  void WatchFolder();
  Event Wait(absl::Duration timeout);
  std::string Look() const;  // what tells one state of the file from another, without reading it

  const std::string file_, folder_;
  const std::function<void()> changed_;
  const Options options_;
  int notify_ = -1;  // inotify; -1: this system has none left, looking has to do
  int watched_ = -1;
  int stop_ = -1;    // an eventfd
  std::thread thread_;
};

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_QUOTA_WATCH_H_
