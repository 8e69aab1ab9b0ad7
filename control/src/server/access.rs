//! Who may connect, and who may change things.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// The rules for the control socket.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Its members may change things, as root always may.
    pub group: Option<Gid>,
    /// Whether other users may connect, and read only.
    pub anyone_may_look: bool,
}

impl Access {
    /// The rules for a group's name.
    ///
    /// # Errors
    /// One line for the operator when the group does not exist.
    pub fn new(group: Option<&str>, anyone_may_look: bool) -> Result<Self, String> {
        let group = match group {
            None => None,
            Some(name) => match Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid),
                Ok(None) => {
                    return Err(format!(
                        "control.group: there is no group {name}; make it with `groupadd --system {name}`"
                    ));
                }
                Err(error) => return Err(format!("control.group: cannot look up {name}: {error}")),
            },
        };
        Ok(Self { group, anyone_may_look })
    }

    /// Gives the socket at `path` its owner and mode.
    pub(super) fn apply(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        if let Some(group) = self.group {
            nix::unistd::chown(path, None, Some(group))?;
        }
        let mode = if self.anyone_may_look { 0o666 } else { 0o660 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    }

    /// Whether the peer of a connection may change things: root, the user that
    /// the daemon runs as, and members of the group. Whose credentials cannot
    /// be read may not.
    pub(super) fn may_change(&self, socket: &impl AsFd) -> bool {
        let Ok(peer) = getsockopt(socket, PeerCredentials) else {
            return false;
        };
        let uid = Uid::from_raw(peer.uid());
        if uid.is_root() || uid == Uid::effective() {
            return true;
        }
        let Some(group) = self.group else { return false };
        Gid::from_raw(peer.gid()) == group || is_member(uid, group)
    }
}

fn is_member(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}
