"""Which properties a patch adds."""

from qap.export.properties import Property, properties

NEW = """
diff --git a/hw/core/machine.c b/hw/core/machine.c
index 1..2 100644
--- a/hw/core/machine.c
+++ b/hw/core/machine.c
@@ -1,2 +1,3 @@
 GlobalProperty hw_compat_9_2[] = {
+    { "virtio-device", "x-ask", "off" },
diff --git a/hw/bus.c b/hw/bus.c
index 1..2 100644
--- a/hw/bus.c
+++ b/hw/bus.c
@@ -1,2 +1,6 @@
-    DEFINE_PROP_BOOL("moved", Bus, flag, true),
+    DEFINE_PROP_BOOL("moved", Bus, flag, false),
+    DEFINE_PROP_BOOL("x-ask", Bus,
+                     asks, true),
+    DEFINE_PROP_ON_OFF_AUTO("tell", Bus, tells, ON_OFF_AUTO_AUTO),
     DEFINE_PROP_BOOL("stays", Bus, stays, true),
diff --git a/hw/new.c b/hw/new.c
new file mode 100644
--- /dev/null
+++ b/hw/new.c
@@ -0,0 +1 @@
+    DEFINE_PROP_BOOL("of-a-new-type", New, flag, true),
"""


def test_properties_are_those_that_are_new_to_a_type() -> None:
    assert properties(NEW) == [
        Property("tell", "Bus", "ON_OFF_AUTO_AUTO", None),
        Property("x-ask", "virtio-device", "true", "off"),
    ]


def test_patch_without_properties_has_none() -> None:
    assert properties("\ndiff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\n+b\n") == []
