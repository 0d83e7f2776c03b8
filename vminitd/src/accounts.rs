//! Users and groups of the workload's root: `/etc/passwd` and `/etc/group`, read as docker does.

use std::{fs, io, path::Path};

use rustix::process::Gid;

/// Whom a process runs as.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<Gid>,
}

/// Why a user's name means nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

/// The account files of a root.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them below `root`; a missing file has no entries.
    pub(crate) fn read(root: &Path) -> Self {
        let text = |name: &str| -> io::Result<String> {
            Ok(String::from_utf8_lossy(&fs::read(root.join("etc").join(name))?).into_owned())
        };
        Self {
            passwd: text("passwd").unwrap_or_default(),
            group: text("group").unwrap_or_default(),
        }
    }

    /// Resolves `user`, `uid`, `user:group` or `uid:gid`; empty is root. As in docker, a bare id
    /// that no entry has is taken as it is, with group 0.
    pub(crate) fn resolve(&self, user: &str) -> Result<Identity, AccountError> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry = self.users().find(|entry| entry.name == user || entry.uid.to_string() == user);
        let (uid, primary) = match (&entry, user.parse::<u32>()) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Ok(uid)) => (uid, 0),
            (None, Err(_)) => return Err(AccountError::NoUser(user.to_owned())),
        };
        if let Some(group) = group {
            let gid = self
                .groups()
                .find(|entry| entry.name == group || entry.gid.to_string() == group)
                .map(|entry| entry.gid)
                .or_else(|| group.parse().ok())
                .ok_or_else(|| AccountError::NoGroup(group.to_owned()))?;
            return Ok(Identity { uid, gid, groups: vec![Gid::from_raw(gid)] });
        }
        let mut groups = vec![Gid::from_raw(primary)];
        if let Some(user) = entry {
            let of_user = self
                .groups()
                .filter(|group| group.members.split(',').any(|member| member == user.name));
            groups.extend(
                of_user.map(|group| Gid::from_raw(group.gid)).filter(|gid| gid.as_raw() != primary),
            );
        }
        Ok(Identity { uid, gid: primary, groups })
    }

    /// `/etc/passwd` with an entry for `name` unless its id or name is taken.
    pub(crate) fn add_user(&mut self, name: &str, uid: u32, gid: u32) {
        if !self.users().any(|entry| entry.uid == uid || entry.name == name) {
            end_line(&mut self.passwd);
            self.passwd.push_str(&format!("{name}:x:{uid}:{gid}::/tmp:/sbin/nologin\n"));
        }
        if !self.groups().any(|entry| entry.gid == gid || entry.name == name) {
            end_line(&mut self.group);
            self.group.push_str(&format!("{name}:x:{gid}:\n"));
        }
    }

    /// The content of `/etc/passwd`.
    pub(crate) fn passwd(&self) -> &str {
        &self.passwd
    }

    /// The content of `/etc/group`.
    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let _password = fields.next()?;
            Some(User {
                name,
                uid: fields.next()?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let _password = fields.next()?;
            Some(Group {
                name,
                gid: fields.next()?.parse().ok()?,
                members: fields.next().unwrap_or_default(),
            })
        })
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nnonsense\nweb:x:33:34:web:/var/www:/bin/false"
                .into(),
            group: "root:x:0:\nstaff:x:50:other,web\nwww:x:34:\n".into(),
        }
    }

    fn identity(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity { uid, gid, groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect() }
    }

    #[test]
    fn resolves_as_docker_does() {
        let accounts = accounts();
        assert_eq!(accounts.resolve("").unwrap(), identity(0, 0, &[0]));
        assert_eq!(accounts.resolve("web").unwrap(), identity(33, 34, &[34, 50]));
        assert_eq!(accounts.resolve("33").unwrap(), identity(33, 34, &[34, 50]));
        assert_eq!(accounts.resolve("web:staff").unwrap(), identity(33, 50, &[50]));
        assert_eq!(accounts.resolve("1000").unwrap(), identity(1000, 0, &[0]));
        assert_eq!(accounts.resolve("993:990").unwrap(), identity(993, 990, &[990]));
        assert!(accounts.resolve("nobody-here").is_err());
        assert!(accounts.resolve("web:no-group").is_err());
    }

    #[test]
    fn adds_a_user_once() {
        let mut accounts = accounts();
        accounts.add_user("sbx", 993, 990);
        accounts.add_user("sbx", 993, 990);
        accounts.add_user("twin", 33, 34);
        assert!(accounts.passwd().ends_with("/bin/false\nsbx:x:993:990::/tmp:/sbin/nologin\n"));
        assert!(accounts.group().ends_with("www:x:34:\nsbx:x:990:\n"));
    }
}
