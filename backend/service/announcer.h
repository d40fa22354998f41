#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "migration/announce.h"

namespace everport {

// What became of an announcement. A device that works on the guest's rings sends only what the guest sends, and no other
// uplink may send it: the network would look for the guest there.
enum class Announcement {
  kSent,      // by the lane that serves the guest
  kMade,      // by the device that serves the guest, once, before it was given the rings
  kNotMade,   // a device serves the guest, and has not announced this address: the guest's own next frame tells
  kUnserved,  // no path serves the guest yet
};

// Announces one guest: when its front-end asks for it (SEND_RARP, one by one: it counts the rounds itself), and by
// itself, kAnnounceRounds times, when the guest has arrived or is on another path; once where it cannot be sent again
// (Announcement). Control thread.
class Announcer {
 public:
  // Not called once this object is gone.
  using Send = std::function<Announcement(const MacAddress&)>;
  Announcer(boost::asio::io_context& io, Send send) : timer_(io), send_(std::move(send)) {}

  void SetConfigured(const MacAddress& mac) { configured_ = mac; }
  // The front-end asks, and knows its guest's address better than the configuration. It asks before it starts the rings
  // (QEMU: before vm_start): then the announcement is made when they are served (kUnserved).
  Announcement Asked(const MacAddress& mac);
  // Asked for while nobody served the guest.
  bool due() const { return due_; }
  // A path serves the guest. moved: from another one; arrived: the guest had been running before its rings came here.
  // What became of the first announcement; kUnserved: none was called for.
  Announcement Served(bool moved, bool arrived);
  // A device tells the network itself before it serves the guest: what is left of the rounds by the path before it is
  // not sent, which would take that back.
  void Hush() { timer_.cancel(); }
  // Its session is over: the next one's guest may be another.
  void Forget();

  const MacAddress& mac() const { return asked_ ? *asked_ : configured_; }

 private:
  Announcement Make(int round);

  boost::asio::steady_timer timer_;
  Send send_;
  MacAddress configured_{};
  std::optional<MacAddress> asked_;
  bool due_ = false;
  std::shared_ptr<Announcer*> alive_ = std::make_shared<Announcer*>(this);
};

}  // namespace everport
